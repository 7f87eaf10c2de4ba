"""`twin rejected`: from a poisonous payload to its reading in the output, once."""

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from click.testing import Result
from confluent_kafka import Producer
from typer.testing import CliRunner

from cli.main import app
from cli.rejected_log import RejectedLog
from cli.retry import Outcome, Retry, again
from connectors.retry import StillBadError
from queries.api import Queries
from runtime.config import Kafka, Plant
from runtime.kafka import client_settings, create_topics
from schemas.codec import decode_as, encode
from schemas.frames import Frame, ValidatedFrame, columns_of
from schemas.quality import Flag, Test
from schemas.records import Rejected
from schemas.topics import ALERTS, ESTIMATES, RAW, REJECTED, VALIDATED, Topic
from services.influxdb import InfluxDB
from services.mosquitto import Mosquitto
from tests.agents.sink_samples import START_NS, make_bucket, plant_with_bucket
from tests.agents.sink_samples import frame as estimates
from tests.connectors.mqtt_tools import Bench, until
from tests.end_to_end.system_tools import ROOT

pytestmark = [pytest.mark.services, pytest.mark.timeout(400)]
PARTITIONS = 4
SECOND_NS = 1_000_000_000


def twin(config: Path, *arguments: str) -> Result:
    """Run a command of the command line, in this process."""
    return CliRunner().invoke(app, arguments, env={"TWIN_CONFIG": str(config)})


@contextmanager
def agent(config: Path, stage: str, code: Path = ROOT) -> Iterator[None]:
    """An agent process while the block runs."""
    env = {**os.environ, "TWIN_CONFIG": str(config), "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen([sys.executable, "-m", "cli.main", "agent", stage], env=env, cwd=code)
    try:
        yield
        assert process.poll() is None, f"{stage} ended by itself"
    finally:
        process.terminate()
        try:
            process.wait(60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@pytest.fixture
def kafka_settings(kafka: str, request: pytest.FixtureRequest) -> Kafka:
    """Topics of this test's own."""
    prefix = "rejected-" + "".join(c if c.isalnum() else "-" for c in request.node.name)[-40:]
    settings = Kafka(bootstrap=kafka, prefix=prefix, partitions=PARTITIONS)
    create_topics(settings)
    return settings


@pytest.fixture
def config(kafka_settings: Kafka, tmp_path: Path) -> Path:
    """A configuration file for those topics."""
    path = tmp_path / "plant.toml"
    k = kafka_settings
    path.write_text(f'[kafka]\nbootstrap = "{k.bootstrap}"\nprefix = "{k.prefix}"\npartitions = {PARTITIONS}\n')
    return path


def produce(kafka: Kafka, topic: Topic, *values: bytes, key: bytes = b"R101") -> None:
    """Records of one key, in order."""
    producer = Producer({**client_settings(kafka), "partitioner": "murmur2_random", "enable.idempotence": True})
    for value in values:
        producer.produce(topic.full_name(kafka.prefix), value, key)
    assert producer.flush(20) == 0


def values_of(kafka: Kafka, topic: Topic) -> list[bytes]:
    """All values of a topic, in the order of each partition."""
    reader = object.__new__(Bench)
    reader.kafka = kafka
    return reader._all(topic)


def raw_frame(value: float, seq: int, at_s: int) -> Frame:
    """One reading of R101 temperature."""
    time_ns = START_NS + at_s * SECOND_NS
    return Frame(
        asset="R101",
        source="mqtt-1",
        epoch=1,
        seq=seq,
        time_ns=time_ns,
        tags=("temperature",),
        units=("degC",),
        tag=np.zeros(1, "<u2"),
        source_time_ns=np.full(1, time_ns, "<i8"),
        server_time_ns=np.zeros(1, "<i8"),
        arrival_time_ns=np.full(1, time_ns + 1000, "<i8"),
        value=np.full(1, value, "<f8"),
        status=np.zeros(1, "<u4"),
        mark=np.zeros(1, "u1"),
    )


def opened(kafka: Kafka) -> RejectedLog:
    """The topic of rejected records as it is now."""
    log = RejectedLog(kafka)
    log.update()
    return log


def rejected_by(stage: str, topic: str, frame: Frame, offset: int = 0, reason: str = "step failed: x") -> Rejected:
    """What a stage writes about a frame."""
    return Rejected(stage=stage, reason=reason, asset=frame.asset, topic=topic, partition=0, offset=offset,
                    payload=encode(frame))  # fmt: skip


def test_a_poisonous_payload_is_listed_shown_and_used_when_the_configuration_understands_it(
    kafka: str, mqtt_broker: Mosquitto, tmp_path: Path
) -> None:
    """Each is listed with reason, stage and place; a retry uses what the configuration of now understands, once."""
    poison = b'{"value": 1, "value": 2}\x1b[2J'
    with Bench(kafka, mqtt_broker, tmp_path) as bench:
        config = tmp_path / "plant.toml"
        connector = bench.start_and_wait()
        client = bench.publisher()
        bench.publish(client, "R1", "temperature", poison)
        nameless = json.dumps({"value": 85.3, "unit": "degC", "timestamp": "2025-10-26T10:30:15Z"})
        client.publish(f"{bench.root}/R1/sensor", nameless, qos=1)
        until(lambda: len(bench.rejected()) == 2, 60, "two rejected records")
        assert bench.stop(connector) == 0

        listed = {
            r["reason"]: r for r in map(json.loads, twin(config, "rejected", "list", "--json").stdout.splitlines())
        }
        (bad,) = (r for r in listed.values() if r["asset"] == "R1")
        assert (bad["stage"], bad["tag"], bad["status"]) == ("connector.mqtt", "temperature", "open")
        assert bad["topic"] == f"{bench.root}/R1/sensor/temperature"
        assert abs(bad["time_ns"] - time.time_ns()) < 600 * SECOND_NS
        table = twin(config, "rejected", "list", "--reason", "ENDS before").stdout
        assert "topic ends before the tag" in " ".join(table.split())
        assert "1 rejected records" in table
        shown = twin(config, "rejected", "show", bad["place"]).stdout
        assert bad["reason"] in shown
        assert "7b 22 76 61" in shown  # no text: the escape sequence must not reach the terminal
        assert "\x1b" not in shown

        before = len(bench.raw())
        tried = twin(config, "rejected", "retry", "--all")
        assert tried.exit_code == 1
        assert tried.stdout.count("still bad") == 2
        assert len(bench.raw()) == before
        assert len(bench.rejected()) == 2  # a try that cannot help leaves no trace

        config.write_text(config.read_text().replace("/+/sensor/#", "/+/+"))
        for _ in range(2):
            twin(config, "rejected", "retry", "--all")
        (frame,) = (f for f in bench.raw() if f.source.endswith("/retry-raw"))
        assert (frame.asset, frame.tags, frame.units, frame.value.tolist()) == ("R1", ("sensor",), ("degC",), [85.3])


def with_next_raw_schema(tmp_path: Path) -> Path:
    """A folder with the schemas of a later version of the program: raw frames have one more field."""
    shutil.copytree(ROOT / "schemas", tmp_path / "schemas", ignore=shutil.ignore_patterns("__pycache__"))
    schema = json.loads((ROOT / "schemas/avsc/raw_frame.v1.avsc").read_text())
    schema["fields"].append({"name": "batch", "type": "string", "default": ""})
    (tmp_path / "schemas/avsc/raw_frame.v2.avsc").write_text(json.dumps(schema))
    return tmp_path


def as_next_version(frame: Frame, code: Path) -> bytes:
    """The frame as the later version writes it."""
    program = (
        "import sys; from schemas.codec import *; sys.stdout.buffer.write(encode(decode(sys.stdin.buffer.read())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], input=encode(frame), cwd=code, capture_output=True, check=True
    )
    return done.stdout


def test_a_frame_of_an_unknown_schema_is_used_once_after_the_upgrade(
    kafka_settings: Kafka, config: Path, tmp_path: Path
) -> None:
    """Rejected by a validation that does not know its schema, retried after the upgrade by runs that are killed before
    and after sending and then twice more, its reading is in the output exactly once, and nothing is reported lost."""
    code = with_next_raw_schema(tmp_path / "next")
    unknown = as_next_version(raw_frame(2.0, 1, 1), code)

    def outputs() -> list[float]:
        return [v for data in values_of(kafka_settings, VALIDATED) for v in decode_as(data, ValidatedFrame).value]

    produce(kafka_settings, RAW, encode(raw_frame(1.0, 0, 0)), unknown, encode(raw_frame(3.0, 2, 2)))
    with agent(config, "validation"):
        until(lambda: outputs() == [1.0, 3.0], 120, "two readings")
    (entry,) = opened(kafka_settings).entries.values()
    assert (entry.record.stage, entry.record.asset, entry.record.offset) == ("validation", "R101", 1)
    assert "fingerprint" in entry.record.reason
    alerts = len(values_of(kafka_settings, ALERTS))
    assert alerts == 1  # the frame that was rejected is missing before seq 2
    (old,) = Retry(Plant(kafka=kafka_settings), opened(kafka_settings)).run([entry.place])
    assert (old.good, "still bad" in old.says) == (False, True)

    def killed_at(point: str) -> None:
        command = [sys.executable, "-m", "tests.cli.retry_worker", str(config), point]
        assert (
            subprocess.run(command, cwd=code, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode == -9
        )

    with agent(config, "validation", code):
        killed_at("planned")
        assert len(values_of(kafka_settings, RAW)) == 3
        killed_at("sent")
        assert len(values_of(kafka_settings, RAW)) == 4
        command = [sys.executable, "-m", "cli.main", "rejected", "retry", str(entry.place)]
        env = {**os.environ, "PYTHONPATH": str(ROOT), "TWIN_CONFIG": str(config)}
        for _ in range(2):
            last = subprocess.run(command, cwd=code, env=env, capture_output=True, text=True, check=True)
            assert "sent as mqtt-1/retry-raw" in last.stdout
        raw = values_of(kafka_settings, RAW)
        assert len(raw) == 5  # sent by the run that was killed, and by the next one, the same bytes
        assert raw[3] == raw[4]
        produce(kafka_settings, RAW, encode(raw_frame(4.0, 3, 3)))
        until(lambda: 4.0 in outputs(), 120, "the last reading")
    assert sorted(outputs()) == [1.0, 2.0, 3.0, 4.0]
    frames = [decode_as(data, ValidatedFrame) for data in values_of(kafka_settings, VALIDATED)]
    (retried,) = (f for f in frames if f.source == "mqtt-1/retry-raw")
    assert int(retried.tests[0]) & Test.LATE
    assert len(values_of(kafka_settings, ALERTS)) == alerts


def test_what_the_sink_rejected_is_stored_when_influxdb_takes_it(
    kafka_settings: Kafka, influx: InfluxDB, tmp_path: Path
) -> None:
    """Points that InfluxDB refused are stored by a retry, once; what no InfluxDB could store stays open."""
    bucket = f"conflict-{time.time_ns()}"
    plant = plant_with_bucket(influx, bucket, tmp_path)
    plant = plant.model_copy(update={"kafka": kafka_settings})
    refuse_floats(influx, bucket)
    times = np.array([START_NS, START_NS + 1, 2**63 - 1])
    whole = estimates(np.array([1.0, 2.0, 3.0]), source_time_ns=times)
    produce(kafka_settings, ESTIMATES, encode(whole))
    config = tmp_path / "plant.toml"
    config.write_text(toml_of(plant))
    with agent(config, "sink"):
        until(lambda: len(opened(kafka_settings).entries) == 3, 120, "three rejected readings")
    log = opened(kafka_settings)
    assert {(e.record.stage, e.record.asset, e.record.tag) for e in log.entries.values()} == {
        ("sink", "R101", "temperature")
    }
    assert all(e.record.topic == ESTIMATES.full_name(kafka_settings.prefix) for e in log.entries.values())
    assert sorted(e.record.time_ns for e in log.entries.values()) == (whole.arrival_time_ns).tolist()

    def tried() -> list[Outcome]:
        log.update()
        return list(Retry(plant, log).run(list(log.entries)))

    assert [o.good for o in tried()] == [False] * 3
    make_bucket(influx, f"{bucket}-clean")
    plant = plant.model_copy(update={"influxdb": plant.influxdb.model_copy(update={"bucket": f"{bucket}-clean"})})
    assert sorted(o.good for o in tried()) == [False, True, True]
    assert sorted(o.says for o in tried())[:2] == ["not sent again: stored, 1 points"] * 2
    with Queries(plant.influxdb) as queries:
        found = queries.range("R101", "temperature", START_NS - 1, START_NS + SECOND_NS)
    assert found["value"].tolist() == [1.0, 2.0]
    assert found["estimate"].tolist() == [1.5, 2.5]


def refuse_floats(influx: InfluxDB, bucket: str) -> None:
    """Make `value` a text in this bucket: InfluxDB then refuses numbers there."""
    import urllib.request

    url = f"{influx.url}/api/v2/write?org={influx.org}&bucket={bucket}"
    line = f'reactor_sensor,reactor_id=R101 value="text" {START_NS}'.encode()
    request = urllib.request.Request(url, line, {"Authorization": f"Token {influx.token}"})
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10) as answer:
        assert answer.status == 204


def toml_of(plant: Plant) -> str:
    """The two sections that differ from the defaults."""
    lines = []
    for name, section in (("kafka", plant.kafka), ("influxdb", plant.influxdb)):
        lines.append(f"[{name}]")
        for key, value in section.model_dump(exclude_none=True, exclude_defaults=True).items():
            lines.append(f"{key} = {json.dumps(value) if isinstance(value, int | str) else json.dumps(str(value))}")
    return "\n".join(lines) + "\n"


def test_two_operators_at_once_send_a_record_once(kafka_settings: Kafka) -> None:
    """Both saw the record open; the one whose plan is second sends nothing, and its other records without a hole."""
    plant = Plant(kafka=kafka_settings)
    frames = [raw_frame(float(n), n, n) for n in range(3)]
    records = [encode(rejected_by("validation", "twin.raw", f, n)) for n, f in enumerate(frames)]
    produce(kafka_settings, REJECTED, *records)
    first, second = opened(kafka_settings), opened(kafka_settings)
    places = sorted(first.entries)
    assert all(o.good for o in Retry(plant, first).run(places[:2]))
    assert all(o.good for o in Retry(plant, second).run(places))
    sent = [decode_as(data, Frame) for data in values_of(kafka_settings, RAW)]
    assert [f.value[0] for f in sent] == [0.0, 1.0, 2.0]
    assert [f.seq for f in sent] == [0, 1, 0]
    assert sent[0].epoch == sent[1].epoch < sent[2].epoch
    assert all(e.status.startswith("sent as") for e in second.entries.values())


def test_retrying_everything_ends(kafka_settings: Kafka) -> None:
    """A record rejected twice is sent once; one that is rejected again is linked, and only --again sends it again."""
    plant = Plant(kafka=kafka_settings)
    record = encode(rejected_by("validation", "twin.raw", raw_frame(1.0, 0, 0)))
    produce(kafka_settings, REJECTED, record, record)
    log = opened(kafka_settings)
    one, copy = sorted(log.entries)
    assert log.entries[copy].status == f"copy of {one}"
    assert [o.good for o in Retry(plant, log).run([one, copy])] == [True, True]
    (sent,) = values_of(kafka_settings, RAW)
    produce(kafka_settings, REJECTED, encode(rejected_by("validation", "twin.raw", decode_as(sent, Frame), 7)))
    log.update()
    third = max(log.entries)
    assert log.entries[third].status == f"open, again of {one}"
    assert log.entries[one].status == f"rejected again: {third}"
    assert [e.place for e in log.entries.values() if e.is_open] == [third]
    assert all(o.good for o in Retry(plant, log).run([third]))
    frames = [decode_as(data, Frame) for data in values_of(kafka_settings, RAW)]
    assert [f.source for f in frames] == ["mqtt-1/retry-raw"] * 2
    assert frames[0].epoch < frames[1].epoch


def test_what_estimation_rejected_comes_back_late() -> None:
    """Validation judged it long ago and later readings followed, so it is marked late: stored, but moves no filter."""
    zeros = {name: np.zeros(3, dtype) for name, dtype in columns_of(ValidatedFrame).items()}
    frame = ValidatedFrame(
        asset="R101", source="opcua-1", epoch=1, seq=5, time_ns=1, tags=("t",), units=("",), connected=False,
        **{**zeros, "flag": np.array([1, 2, 4], "u1")},
    )  # fmt: skip
    found = again(rejected_by("estimation", "twin.validated", frame), Plant())
    assert isinstance(found, ValidatedFrame)
    assert found.flag.tolist() == [Flag.SUSPECT, Flag.SUSPECT, Flag.FAIL]
    assert found.tests.tolist() == [Test.LATE] * 3
    assert (found.source, found.connected) == ("opcua-1/retry-validated", True)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (Rejected(stage="twin", reason="step failed"), "late"),
        (Rejected(stage="validation", reason="output too large: x", payload=b""), "too large"),
        (Rejected(stage="validation", reason="r", payload=b'{"tag": "t"}'), "header"),
        (Rejected(stage="connector.mqtt", reason="a retained message without a time: …", payload=b"1"), "retained"),
        (
            Rejected(stage="connector.mqtt", reason="payload of 9 bytes, …", topic="reactor/A/sensor/t", payload=b"1"),
            "9",
        ),
        (Rejected(stage="connector.mqtt", reason="r", topic="reactor/A/sensor/t", payload=b"[1]"), "no object"),
        (Rejected(stage="sink", reason="r", payload=b"garbage"), "header"),
    ],
)
def test_what_cannot_be_used_is_not_sent(record: Rejected, why: str) -> None:
    """A record whose retry could not help, or would store something false, is refused with the reason."""
    with pytest.raises(StillBadError, match=why):
        again(record, Plant())


def test_a_batch_of_two_units_is_one_frame() -> None:
    """Readings of one payload stay together, each with its unit, those without a time at their first arrival."""
    payload = b'[{"value": 1, "unit": "degC"}, {"value": 274, "unit": "K", "timestamp": 1760000000}, {"value": "Bad"}]'
    record = Rejected(stage="connector.mqtt", reason="r", topic="reactor/A/sensor/t", time_ns=START_NS, payload=payload)
    frame = again(record, Plant.model_validate({"tags": {"A/t": {"unit": "degC"}}}))
    assert isinstance(frame, Frame)
    assert (frame.tags, frame.units, frame.tag.tolist()) == (("t", "t"), ("degC", "K"), [0, 1, 0])
    assert frame.texts == {2: "Bad"}
    assert frame.source_time_ns.tolist() == [START_NS, 1_760_000_000 * SECOND_NS, START_NS]
