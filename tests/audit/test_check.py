"""The checker on a real Kafka and a real InfluxDB: one thing is wrong at a time, it is named, and nothing else is."""

import os
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import orjson
import pytest
from confluent_kafka import Producer

from audit.check import Report, check
from audit.expected import ExpectedError, load
from audit.kafka import Cluster, home
from runtime.partitions import home_partition
from schemas.codec import decode_as, encode
from schemas.frames import EstimateFrame, Gap, ValidatedFrame
from schemas.records import Alert, Rejected
from schemas.states import StageState
from schemas.topics import ALERTS, ESTIMATES, RAW, REJECTED, STATE, VALIDATED
from services.influxdb import InfluxDB
from tests.audit.flow import START_NS, Flow, flipped, write
from tests.faults.fold import fold

ROOT = Path(__file__).parents[2]
Damage = Callable[[Flow], None]


def test_partitions_are_chosen_as_kafka_chooses_them() -> None:
    """Our own murmur2 sends random keys of every length to the partitions that aiokafka's sends them to."""
    rng = np.random.default_rng(1)
    keys = [rng.bytes(n % 23) for n in range(2000)] + [b"R101", "Kühler-7".encode()]
    assert [home(key, 16) for key in keys] == [home_partition(key, 16) for key in keys]


def _nothing(flow: Flow) -> None:
    flow.run()


def _repeat_identically(flow: Flow) -> None:
    """As agents and connectors do after a crash: outputs again, frames again, readings again in a new epoch."""
    asset = flow.assets()[0]
    again = flow.frames[20]
    flow.frames.append(replace(again, epoch=again.epoch + 1, seq=0))
    flow.run()
    for topic in (RAW, VALIDATED, ESTIMATES, STATE):
        last = flow.of(topic.name, asset)[-1]
        flow.add(topic.name, last.key, last.value, last.partition)
    flow.lines.append(flow.lines[7] | {"repeat": True})


def _lose_before_raw(flow: Flow) -> None:
    flow.line(flow.assets()[0], "pressure", START_NS + 150_000_000, 2.5)
    flow.run()


def _raw_value(flow: Flow) -> None:
    value = flow.frames[4].value.copy()
    value.view(np.uint64)[2] ^= 1
    flow.frames[4] = replace(flow.frames[4], value=value)
    flow.run()


def _raw_time(flow: Flow) -> None:
    times = flow.frames[4].source_time_ns.copy()
    times[2] ^= 1 << 20
    flow.frames[4] = replace(flow.frames[4], source_time_ns=times)
    flow.run()


def _raw_unit(flow: Flow) -> None:
    flow.lines[0]["unit"] = "K"
    flow.run()


def _never_sent(flow: Flow) -> None:
    del flow.lines[10]
    flow.run()


def _sent_in_another_order(flow: Flow) -> None:
    assert [flow.lines[n]["tag"] for n in (0, 2)] == ["temperature"] * 2
    flow.lines[0], flow.lines[2] = flow.lines[2], flow.lines[0]
    flow.run()


def _seq_hole(flow: Flow) -> None:
    asset = flow.assets()[1]
    flow.frames = [replace(f, seq=f.seq + 1) if f.asset == asset and f.seq >= 5 else f for f in flow.frames]
    flow.run()


def _raw_frames_swapped(flow: Flow) -> None:
    beat = flow.without_readings(flow.assets()[0], 13)
    flow.frames += [beat, replace(beat, seq=12)]
    flow.run()


def _raw_conflict(flow: Flow) -> None:
    flow.run()
    record = flow.of(RAW.name)[3]
    flow.add(RAW.name, record.key, encode(replace(flow.frames[3], time_ns=1)), record.partition)


def _raw_in_wrong_partition(flow: Flow) -> None:
    asset = flow.assets()[0]
    flow.wrong_partition.add(len(flow.frames))
    flow.frames.append(flow.without_readings(asset, 12))
    flow.frames.append(flow.without_readings(asset, 13))
    flow.run()


def _raw_under_wrong_key(flow: Flow) -> None:
    flow.frames.append(flow.without_readings(flow.assets()[0], 12))
    flow.wrong_partition.add(24)
    flow.run()
    (record,) = (r for r in flow.of(RAW.name) if r.value == encode(flow.frames[24]))
    record.key = b"other"


def _output_removed(flow: Flow, topic: str) -> None:
    flow.run()
    flow.records.remove(flow.of(topic)[5])


def _output_bit(flow: Flow, topic: str) -> None:
    """One bit of the record's time, which stands in all four kinds."""
    flow.run()
    record = flow.of(topic)[5]
    if topic == STATE.name:
        record.value = flipped(record.value, record.value.rindex(b"temperature") - 3)
    else:
        record.value = flipped(record.value, len(record.value) - 12)


def _output_conflict(flow: Flow, topic: str) -> None:
    flow.run()
    record = flow.of(topic)[5]
    flow.add(topic, record.key, flipped(record.value, len(record.value) - 12), record.partition)


def _outputs_swapped(flow: Flow, topic: str) -> None:
    flow.run()
    a, b = flow.of(topic, flow.assets()[0])[4:6]
    a.value, b.value = b.value, a.value


def _output_in_wrong_partition(flow: Flow, topic: str) -> None:
    flow.run()
    record = flow.of(topic)[5]
    record.partition = (record.partition + 1) % 3


def _output_of_nothing(flow: Flow, topic: str) -> None:
    flow.run()
    record = flow.of(topic)[5]
    frame = decode_as(record.value, ValidatedFrame)
    flow.add(topic, record.key, encode(replace(frame, seq=99)), record.partition)


def _output_of_another_type(flow: Flow, topic: str) -> None:
    flow.run()
    record = flow.of(topic)[5]
    flow.add(topic, record.key, flow.of(RAW.name)[5].value, record.partition)


def _infinite_estimate(flow: Flow) -> None:
    flow.run()
    record = flow.of(ESTIMATES.name)[5]
    frame = decode_as(record.value, EstimateFrame)
    record.value = encode(replace(frame, rate=np.full(len(frame), np.inf)))


def _last_state(flow: Flow) -> None:
    flow.run()
    record = flow.of(STATE.name, flow.assets()[0])[-1]
    record.value = flipped(record.value, record.value.rindex(b"temperature") - 3)


def _row_bit(flow: Flow, stage: str) -> None:
    flow.run()
    row = flow.of(f"changelog.{stage}")[0]
    state = decode_as(row.value, StageState)
    events = state.columns["event"].copy()
    events[0] ^= 1
    row.value = encode(replace(state, columns={**state.columns, "event": events}))


def _row_position(flow: Flow, stage: str) -> None:
    flow.run()
    flow.of(f"changelog.{stage}")[0].shift = 1


def _row_removed(flow: Flow, stage: str) -> None:
    flow.run()
    flow.records.remove(flow.of(f"changelog.{stage}")[0])


def _old_row_written_late(flow: Flow, stage: str) -> None:
    """As a zombie does: the greater position is the state, so nothing is wrong."""
    flow.run()
    row = flow.of(f"changelog.{stage}")[0]
    late = flow.add(row.topic, row.key, flipped(row.value, len(row.value) - 10), row.partition)
    late.source = flow.of({"validation": RAW.name, "twin": ESTIMATES.name}[stage], row.key.decode())[3]


def _filter_without_number(flow: Flow) -> None:
    flow.run()
    row = flow.of("changelog.estimation")[0]
    state = decode_as(row.value, StageState)
    numbers = state.columns["filter"].copy()
    numbers[0, 1] = np.nan
    row.value = encode(replace(state, columns={**state.columns, "filter": numbers}))


def _unreadable_and_rejected(flow: Flow) -> None:
    flow.run()
    key = flow.assets()[0].encode()
    flow.reject(flow.add(RAW.name, key, b"\xc3\x01 nonsense", home_partition(key, 3)))


def _unreadable_and_not_rejected(flow: Flow) -> None:
    flow.run()
    key = flow.assets()[0].encode()
    flow.add(RAW.name, key, b"\xc3\x01 nonsense", home_partition(key, 3))


def _garbage(flow: Flow, end: bytes) -> None:
    """Two pieces of garbage are sent; one is rejected as it was, the other one with `end` as its end."""
    asset = flow.assets()[0]
    flow.run()
    for sent, found in ((b"{", b"{"), (b"[1", b"[" + end)):
        flow.line(asset, "pressure", START_NS, None, garbage=True, bytes=(asset.encode() + sent).hex())
        payload = asset.encode() + found
        rejected = Rejected(stage="connector.mqtt", reason="no valid JSON at 7", asset=asset, payload=payload)
        flow.add(REJECTED.name, asset.encode(), encode(rejected), 0)


def _points_with(flow: Flow, text: str) -> tuple[list[str], list[int]]:
    """The points of a flow that has run, to be damaged, and which of them have this in their line."""
    points = flow.points = flow.stored()
    return points, [n for n, line in enumerate(points) if text in line]


def _point_removed(flow: Flow) -> None:
    flow.run()
    points, readings = _points_with(flow, "reactor_sensor")
    del points[readings[17]]


def _point_doubled(flow: Flow) -> None:
    flow.run()
    points, readings = _points_with(flow, "reactor_sensor")
    before, _, time_ns = points[readings[17]].rpartition(" ")
    points.append(f"{before} {int(time_ns) + 1}")


def _point_bit(flow: Flow) -> None:
    flow.run()
    value = float.fromhex(flow.lines[0]["value"])
    points, (index,) = _points_with(flow, f"value={value!r}")
    points[index] = points[index].replace(f"value={value!r}", f"value={np.nextafter(value, 0.0)!s}")


def _twin_point_removed(flow: Flow) -> None:
    flow.run()
    points, states = _points_with(flow, "reactor_twin")
    del points[states[3]]


def _alert(flow: Flow) -> Alert:
    asset = flow.assets()[0]
    alert = Alert(asset=asset, kind="drift", severity="warning", time_ns=START_NS, message="it drifts", tag="pressure")
    flow.add(ALERTS.name, asset.encode(), encode(alert), 0)
    return alert


def _alert_stored(flow: Flow) -> None:
    flow.run()
    _alert(flow)


def _alert_not_stored(flow: Flow) -> None:
    flow.run()
    flow.points = flow.stored()
    _alert(flow)


def _alert_unreadable(flow: Flow) -> None:
    flow.run()
    record = flow.of(STATE.name)[0]
    flow.add(ALERTS.name, record.key, record.value, 0)


def _told(flow: Flow, tags: tuple[str, ...] = ("pressure",), to_ns: int = 5_000_000_000) -> None:
    """A pressure is lost 4.85 s after the start; a gap frame tells of the time from 4.7 s on."""
    asset = flow.assets()[0]
    gap = Gap(from_ns=START_NS + 4_700_000_000, to_ns=START_NS + to_ns, cause="queue overflowed", lost=1)
    flow.line(asset, "pressure", START_NS + 4_850_000_000, 2.5)
    told = flow.without_readings(asset, 12, gap, tags)
    flow.frames.append(replace(told, time_ns=START_NS + 5_000_000_000))
    flow.run()


def _told_of_all_tags(flow: Flow) -> None:
    _told(flow, ())


def _told_of_another_tag(flow: Flow) -> None:
    _told(flow, ("temperature",))


def _told_of_another_time(flow: Flow) -> None:
    _told(flow, to_ns=4_840_000_000)


def _all_of_a_tag_told(flow: Flow, stored: str) -> None:
    """No pressure of an asset has come, as a gap frame of all its tags tells; InfluxDB has `stored` nevertheless."""
    asset, at_ns = f"{flow.assets()[0]}2", START_NS + 4_850_000_000
    times = [START_NS + 4_700_000_000, START_NS + 4_800_000_000]
    gap = Gap(from_ns=times[-1], to_ns=START_NS + 5_000_000_000, cause="MQTT session lost")
    told = replace(flow.without_readings(asset, 1, gap), time_ns=START_NS + 5_000_000_000)
    flow.frames += [flow.frame(asset, 0, times, [85.0, 85.0], tag=np.zeros(2, np.uint16)), told]
    for time_ns in times:
        flow.line(asset, "temperature", time_ns, 85.0)
    flow.line(asset, "pressure", at_ns, 2.5)
    flow.run()
    flow.points = flow.stored()
    if stored:
        flow.points.append(f"reactor_sensor,reactor_id={asset},sensor_type=pressure,unit=MPa {stored} {at_ns}")


def _named(damage: object, topic: str) -> Damage:
    return lambda flow: damage(flow, topic)  # type: ignore[operator]


CASES: dict[str, tuple[Damage, dict[str, int]]] = {
    "clean": (_nothing, {}),
    "repeated identically": (_repeat_identically, {}),
    "lost before raw": (_lose_before_raw, {"raw.missing": 1, "influxdb.missing": 1}),
    "raw value": (_raw_value, {"raw.altered": 1, "influxdb.altered": 1}),
    "raw time": (_raw_time, {"raw.altered": 1, "influxdb.missing": 1, "influxdb.repeated": 1}),
    "raw unit": (_raw_unit, {"raw.altered": 1, "influxdb.altered": 1}),
    "never sent": (_never_sent, {"raw.unsent": 1, "influxdb.repeated": 1}),
    "sent in another order": (_sent_in_another_order, {"raw.out_of_order": 1}),
    "seq hole": (_seq_hole, {"raw.seq_holes": 1}),
    "raw frames swapped": (_raw_frames_swapped, {"raw.seq_out_of_order": 1}),
    "raw conflict": (_raw_conflict, {"raw.conflicting": 1}),
    "raw in wrong partition": (_raw_in_wrong_partition, {"raw.misplaced": 1}),
    "raw under wrong key": (_raw_under_wrong_key, {"raw.misplaced": 1}),
    **{
        f"{topic} {fault}": (_named(damage, topic), {f"{topic}.{fault}": 1})
        for topic, fault, damage in (
            (VALIDATED.name, "missing", _output_removed),
            (STATE.name, "missing", _output_removed),
            (VALIDATED.name, "differing", _output_bit),
            (ESTIMATES.name, "differing", _output_bit),
            (STATE.name, "differing", _output_bit),
            (VALIDATED.name, "conflicting", _output_conflict),
            (ESTIMATES.name, "out_of_order", _outputs_swapped),
            (STATE.name, "misplaced", _output_in_wrong_partition),
            (VALIDATED.name, "unasked", _output_of_nothing),
            (ESTIMATES.name, "unreadable", _output_of_another_type),
        )
    },
    "estimates missing": (_named(_output_removed, ESTIMATES.name), {"estimates.missing": 1, "influxdb.missing": 4}),
    "infinite estimate": (_infinite_estimate, {"estimates.not_finite": 1, "estimates.differing": 1}),
    "last state": (_last_state, {"state.differing": 1, "twins.differing": 1}),
    "row bit": (_named(_row_bit, "twin"), {"changelog.twin.differing": 1}),
    "row position": (_named(_row_position, "estimation"), {"changelog.estimation.behind": 1}),
    "row removed": (_named(_row_removed, "validation"), {"changelog.validation.missing": 1}),
    "old row late": (_named(_old_row_written_late, "twin"), {}),
    "filter": (_filter_without_number, {"changelog.estimation.not_finite": 1, "changelog.estimation.differing": 1}),
    "unreadable and rejected": (_unreadable_and_rejected, {}),
    "unreadable, not rejected": (_unreadable_and_not_rejected, {"rejected.missing": 1}),
    "garbage": (_named(_garbage, b"1"), {}),  # type: ignore[arg-type]
    "garbage altered": (_named(_garbage, b"2"), {"rejected.missing": 1}),  # type: ignore[arg-type]
    "told": (_told, {}),
    "told of all tags": (_told_of_all_tags, {}),
    "told of another tag": (_told_of_another_tag, {"raw.missing": 1, "raw.inexact": 1, "influxdb.missing": 1}),
    "told of another time": (_told_of_another_time, {"raw.missing": 1, "raw.inexact": 1, "influxdb.missing": 1}),
    "point removed": (_point_removed, {"influxdb.missing": 1, "influxdb.estimates_missing": 1}),
    "point doubled": (_point_doubled, {"influxdb.repeated": 1, "influxdb.estimates_unasked": 1}),
    "point bit": (_point_bit, {"influxdb.altered": 1, "influxdb.estimates_altered": 1}),
    "twin point removed": (_twin_point_removed, {"influxdb.states_missing": 1}),
    "alert": (_alert_stored, {}),
    "alert without point": (_alert_not_stored, {"influxdb.alerts_missing": 1}),
    "alert unreadable": (_alert_unreadable, {"alerts.unreadable": 1}),
    "all of a tag told": (_named(_all_of_a_tag_told, ""), {}),
    "all of a tag told, but stored": (
        _named(_all_of_a_tag_told, f"value=2.5,quality=1i,arrival_ns={START_NS + 4_900_000_000}i"),
        {"influxdb.repeated": 1},
    ),
}


class Found(NamedTuple):
    """What was found in a run with every damage, each on assets of its own."""

    flows: dict[str, Flow]
    with_expected: Report
    without: Report


@pytest.fixture(scope="module")
def found(kafka: str, influx: InfluxDB, tmp_path_factory: pytest.TempPathFactory) -> Found:
    """All flows, damaged, written and checked, with a fold to compare with and without."""
    flows = {}
    for n, (case, (damage, _)) in enumerate(CASES.items()):
        flow = flows[case] = Flow(f"case{n}")
        flow.fill()
        damage(flow)
    written = write(list(flows.values()), "check", kafka, influx, tmp_path_factory.mktemp("check"))
    return Found(flows, written.check(expected=True), written.check(expected=False))


def _faults_of(flow: Flow, report: Report) -> dict[str, int]:
    """The faults of which the examples name an asset of this flow."""
    of_flow = {
        fault: sum(f"{asset}" in sentence for sentence in sentences for asset in flow.assets())
        for fault, sentences in report.examples.items()
    }
    return {fault: count for fault, count in of_flow.items() if count}


@pytest.mark.services
@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_named_and_nothing_else(found: Found, case: str) -> None:
    """Each damage is found in its place, counted once, and shown; what is legal is no fault."""
    assert _faults_of(found.flows[case], found.with_expected) == CASES[case][1]


@pytest.mark.services
def test_every_fault_is_one_that_was_made(found: Found) -> None:
    """The counts are the sums over the damages: nothing is counted that no example shows."""
    made: Counter[str] = Counter()
    for _, faults in CASES.values():
        made.update(faults)
    assert found.with_expected.faults() == made
    assert not found.with_expected.ok


@pytest.mark.services
@pytest.mark.parametrize("case", CASES)
def test_without_expected_outputs_all_but_contents_is_checked(found: Found, case: str) -> None:
    """Without a fold to compare with, everything is found but what only the contents of outputs and states show."""
    faults = {name: count for name, count in CASES[case][1].items() if not name.endswith(".differing")}
    assert _faults_of(found.flows[case], found.without) == faults


@pytest.mark.services
def test_what_gap_frames_tell_of_is_counted_apart(found: Found) -> None:
    """A reading lost inside the interval of a gap frame of its tag is told, with the interval; no other loss is."""
    asset = found.flows["told"].assets()[0]
    (hole,) = (hole for hole in found.with_expected.told if hole.asset == asset)
    assert (hole.from_ns, hole.to_ns) == (START_NS + 4_700_000_000, START_NS + 5_000_000_000)
    assert (hole.tags, hole.missing, hole.present, hole.lost) == (("pressure",), 1, 0, 1)
    assert found.with_expected.tallies["raw"].figures["told_missing"] == 4
    untold = found.flows["told of another tag"].assets()[0]
    assert [hole.missing for hole in found.with_expected.told if hole.asset == untold] == [0]


@pytest.mark.services
def test_repetitions_and_rejections_are_figures(found: Found) -> None:
    """Frames and readings that came again are counted, and what was rejected by stage and kind of reason."""
    report = found.with_expected
    assert report.tallies["raw"].figures["repeated_frames"] == 1
    assert report.tallies["raw"].figures["repeated_readings"] == 4
    assert report.tallies["validated"].figures["repeated_frames"] == 1
    assert report.rejected["connector.mqtt"] == {"no valid JSON at …": 4}
    assert report.rejected["validation"] == {"body is cut short at byte …": 3}


@pytest.mark.services
def test_the_checker_waits_for_what_is_on_its_way(kafka: str, influx: InfluxDB, tmp_path: Path) -> None:
    """While topics grow nothing is judged for good; a fold of another raw topic is refused."""
    flow = Flow("late")
    flow.fill()
    flow.run()
    flow.points = flow.stored()
    last = flow.of(STATE.name)[-1]
    flow.records.remove(last)
    written = write([flow], "late", kafka, influx, tmp_path)
    expected = tmp_path / "expected.json"
    fold(written.plant, expected)
    producer = Producer({"bootstrap.servers": kafka})
    produce = partial(producer.produce, STATE.full_name("late"), last.value, last.key, last.partition)
    later = threading.Timer(1.0, lambda: (produce(), producer.flush(30)))
    later.start()
    cluster = Cluster(bootstrap=kafka, prefix="late")
    report = check([written.journal], cluster, written.database, load(expected), patience_s=20, quiet_s=0)
    later.join()
    assert report.faults() == {}
    beat = flow.without_readings(flow.assets()[0], 12)
    producer.produce(RAW.full_name("late"), encode(beat), beat.asset.encode(), 0)
    assert producer.flush(30) == 0
    with pytest.raises(ExpectedError, match="fold again"):
        check([written.journal], cluster, None, load(expected), patience_s=0, quiet_s=0)


@pytest.mark.services
def test_the_program_ends_with_0_only_where_everything_holds(kafka: str, influx: InfluxDB, tmp_path: Path) -> None:
    """Exit code 0, 1 where something is wrong, 2 where it cannot tell; a table, and the report as JSON."""
    flow = Flow("program")
    flow.fill()
    flow.run()
    written = write([flow], "program", kafka, influx, tmp_path)
    settings, out = tmp_path / "kafka.properties", tmp_path / "report.json"
    settings.write_text("# for the auditor\nclient.id=auditor\n")

    def run(prefix: str, *more: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "audit", "--journal", str(written.journal), "--kafka", kafka]
        command += ["--prefix", prefix, "--kafka-properties", str(settings), "--influx-url", influx.url]
        command += ["--out", str(out), "--patience-s", "0", "--quiet-s", "0", *more]
        env = {**os.environ, "INFLUX_TOKEN": influx.token, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    ended = run("program")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "everything holds" in ended.stdout
    report = orjson.loads(out.read_bytes())
    assert report["ok"]
    assert report["stages"]["raw"]["readings"] == report["influxdb"]["readings"]["stored"] == len(flow.lines)
    producer = Producer({"bootstrap.servers": kafka})
    producer.produce(VALIDATED.full_name("program"), b"no frame", b"forged", 0)
    assert producer.flush(30) == 0
    assert run("program").returncode == 1
    assert run("program", "--ignore", "forged").returncode == 0, "records of an asset that a row forges are not judged"
    with written.journal.open("ab") as journal:
        journal.write(orjson.dumps(flow.lines[0] | {"source_time_ns": START_NS + 1}) + b"\n")
    ended = run("program", "--ignore", "forged")
    assert ended.returncode == 1
    assert f"raw.missing: program-A/temperature at {START_NS + 1}" in ended.stdout
    assert orjson.loads(out.read_bytes())["faults"] == {"raw.missing": 1, "influxdb.missing": 1}
    settings.write_text("sasl.password\n")
    ended = run("program")
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "line 1: allowed is name=value" in ended.stderr
    settings.write_text("")
    assert "has no topic elsewhere" in run("elsewhere").stderr
