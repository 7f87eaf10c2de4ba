"""The MQTT connector as a process between a real mosquitto and a real Kafka."""

import json
import math
import random
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest

from connectors.mqtt import run
from runtime.config import Plant
from runtime.exit_codes import BAD_CONFIGURATION
from schemas.quality import STATUS_BAD, Mark
from services.mosquitto import Listener, Mosquitto
from services.processes import free_port
from tests.connectors.mqtt_tools import (
    Bench,
    assert_identities_have_no_holes,
    bits,
    make_authority,
    readings,
    until,
)

pytestmark = pytest.mark.services
BASE_NS = 1_761_474_615_000_000_000


def finite_double(source: random.Random) -> float:
    """Any finite double, all bit patterns alike."""
    while not math.isfinite(value := struct.unpack("<d", source.randbytes(8))[0]):
        pass
    return float(value)


def test_every_reading_arrives_to_the_bit_and_is_acknowledged(
    kafka: str, mqtt_broker: Mosquitto, tmp_path: Path
) -> None:
    """Objects, batches and plain numbers of 12 sensors come out of Kafka bit-equal and in order; after a regular stop
    nothing is left to be sent again."""
    source = random.Random(1)
    expected: dict[tuple[str, str], list[tuple[object, ...]]] = {}
    with Bench(kafka, mqtt_broker, tmp_path) as bench:
        process = bench.start_and_wait()
        client = bench.publisher()
        for n in range(3000):
            asset, tag = f"R{n % 3}", ("temperature", "jacket/temperature", "pH", "Druck µ")[n % 4]
            batch = [(finite_double(source), BASE_NS + n * 1000 + i) for i in range(3 if n % 10 == 0 else 1)]
            elements = [{"value": v, "unit": "degC", "timestamp": t} for v, t in batch]
            bench.publish(client, asset, tag, elements if len(elements) > 1 else elements[0])
            rows = expected.setdefault((asset, tag), [])
            rows += [("degC", bits(v), t, 0, 0, None) for v, t in batch]
        count = sum(map(len, expected.values()))
        bench.wait_for_readings(count)
        assert bench.metric("twin_healthy") == 1
        assert bench.metric('twin_connected{peer="mqtt"}') == 1
        until(lambda: bench.metric("twin_readings_total") == count, 5, "the metric of confirmed readings")
        last = bench.publish(client, "R0", "plain", "85.3")  # still in its linger when the process is told to stop
        last.wait_for_publish(5)
        time.sleep(0.05)
        assert bench.stop(process) == 0

        frames = bench.raw()
        plain = readings(frames).pop(("R0", "plain"), [])
        assert [(row[1], row[4]) for row in plain] == [(bits(85.3), Mark.ARRIVAL_TIME_USED)]
        assert {k: v for k, v in readings(frames).items() if k != ("R0", "plain")} == expected
        assert_identities_have_no_holes(frames)
        assert not bench.rejected()
        again = bench.start_and_wait()
        time.sleep(0.5)
        assert bench.stop(again) == 0
        assert readings(bench.raw()) == readings(frames)


@pytest.mark.kill
def test_killed_while_readings_come(kafka: str, mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """Killed with -9 five times at random, the connector loses nothing, repeats only what was not acknowledged, and
    keeps the order of each tag; it is back within 5 s."""
    source = random.Random(2)
    number, tags = 6000, 12
    with Bench(kafka, mqtt_broker, tmp_path) as bench:
        process = bench.start_and_wait()
        client = bench.publisher()

        def publish() -> None:
            for n in range(number):
                bench.publish(client, f"R{n % 3}", f"t{n % tags}", {"value": n, "timestamp": BASE_NS + n})
                time.sleep(0.001)

        publishing = threading.Thread(target=publish)
        publishing.start()
        for _ in range(5):
            time.sleep(source.uniform(0.2, 1.2))
            process.kill()
            process.wait()
            begin = time.monotonic()
            process = bench.start_and_wait()
            assert time.monotonic() - begin < 5
        publishing.join()
        until(lambda: len({v for rows in readings(bench.raw()).values() for v in rows}) == number, 30, "all readings")
        assert bench.stop(process) == 0
        frames = bench.raw()
    assert_identities_have_no_holes(frames)
    assert len({frame.epoch for frame in frames}) > 1
    repeated = 0
    for tag, rows in readings(frames).items():
        numbers = [row[2] - BASE_NS for row in rows]
        first_seen = list(dict.fromkeys(numbers))
        assert first_seen == list(range(first_seen[0], number, tags)), tag
        assert [bits(float(n)) for n in numbers] == [row[1] for row in rows]
        repeated += len(numbers) - len(first_seen)
    assert repeated <= 5 * 128  # what may be unacknowledged when a process dies


@pytest.mark.kill
def test_no_more_readings_are_repeated_than_validation_remembers(
    kafka: str, mqtt_broker: Mosquitto, tmp_path: Path
) -> None:
    """Batches count by their readings: a queue of 400 batches of 60 is drained quickly, larger ones alone, and a kill
    in the middle repeats at most 128 readings of the tag, the last ones."""
    sizes = [60] * 400 + [1000] + [1] * 50
    with Bench(kafka, mqtt_broker, tmp_path) as bench:
        assert bench.stop(bench.start_and_wait()) == 0  # the broker has a session now, in which messages wait
        client, n = bench.publisher(), 0
        for size in sizes:
            batch = [{"value": n + i, "timestamp": BASE_NS + n + i} for i in range(size)]
            last = bench.publish(client, "R1", "t", batch)
            n += size
        last.wait_for_publish(20)
        process = bench.start()
        until(lambda: sum(map(len, bench.raw())) > 1000, 20, "some readings")
        process.kill()
        process.wait()
        bench.start()
        until(lambda: len({row[2] for row in readings(bench.raw())["R1", "t"]}) == n, 20, "all readings")
        frames = bench.raw()
    assert_identities_have_no_holes(frames)
    numbers = [row[2] - BASE_NS for row in readings(frames)["R1", "t"]]
    assert list(dict.fromkeys(numbers)) == list(range(n))
    again = next((i for i, (a, b) in enumerate(pairwise(numbers)) if b <= a), None)
    if again is not None:  # the kill may hit a moment at which all was acknowledged
        assert 0 < numbers[again] - numbers[again + 1] + 1 <= 128
    took_s = (max(f.time_ns for f in frames) - max(f.epoch for f in frames)) / 1e9
    assert took_s < 10


def garbage(source: random.Random, i: int) -> bytes:
    """One of the payloads of fault rows 17 and 18, by number."""
    kinds = [
        b"[" * 100_000,
        b'{"value":' * 100_000,
        b'{"value": 1, "value": 2}',
        b'{"value": "\xff\xfe"}',
        source.randbytes(200),
        b'{"value": [1, 2]}',
        b'{"value": 1, "timestamp": {}}',
        b'{"value": 1, "timestamp": 1e300}',
        b'{"value": 1',
        b"",
        b"not json at all",
        b'{"value": NaN}',
        b"nan",
        b'{"value": -Infinity}',
        b'{"value": 1e999}',
        b'{"value": "12,5"}',
        b'{"value": true}',
        b'{"value": ""}',
        '{"value": "🔥"}'.encode(),
        b"null",
        b'{"value": "\\ud800"}',
        b"[]",
        b'[{"value": 1, "timestamp": 1761474615}, {"value": "Bad"}, {}]',
        b"12,5",
    ]
    if i % 100 == 50:
        return json.dumps({"value": "x" * 1_000_000}).encode()
    return kinds[i % len(kinds)]


def test_a_burst_of_garbage_is_all_accounted_for(kafka: str, mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """1,000 payloads of garbage, one of them of 50 MB, leave the connector running in bounded memory; every one is in
    rejected or a BAD reading, and the good reading after them arrives."""
    source = random.Random(3)
    with Bench(kafka, mqtt_broker, tmp_path) as bench:
        process = bench.start_and_wait()
        client = bench.publisher()
        bench.publish(client, "R1", "before", {"value": 1, "timestamp": 1_761_474_615})
        bench.wait_for_readings(1)
        child = psutil.Process(process.pid)
        before, peak = child.memory_info().rss, 0
        sent = {f"g{i}": garbage(source, i) for i in range(1000)}
        sent["g500"] = b'{"value": "' + b"x" * 50_000_000 + b'"}'
        for tag, payload in sent.items():
            bench.publish(client, "R1", tag, payload)
            peak = max(peak, child.memory_info().rss)
        for _ in range(20):
            client.publish(f"{bench.root}/R1/sensor", b"1", qos=1)
        bench.publish(client, "R1", "after", {"value": 2, "timestamp": 1_761_474_616})

        def arrived() -> bool:
            nonlocal peak
            peak = max(peak, child.memory_info().rss)
            return ("R1", "after") in readings(bench.raw())

        until(arrived, 60, "the reading after the garbage")
        assert bench.stop(process) == 0
        frames, rejected = bench.raw(), bench.rejected()
    found = readings(frames)
    assert_identities_have_no_holes(frames)
    bad = {tag for (_, tag), rows in found.items() if any(row[3] == STATUS_BAD and row[4] & Mark.TEXT for row in rows)}
    refused = {r.tag: r for r in rejected if r.tag}
    assert set(sent) == (bad | set(refused)) - {"before", "after"}
    assert all(r.reason and r.stage == "connector.mqtt" and r.topic.startswith(bench.root) for r in rejected)
    assert all(r.payload == sent[tag] for tag, r in refused.items() if tag != "g500")
    assert refused["g500"].reason.startswith("payload of 50000013 bytes")
    assert sent["g500"].startswith(refused["g500"].payload)
    assert sum(r.reason == "topic ends before the tag" for r in rejected) == 20
    assert peak - before < 50e6, f"{(peak - before) / 1e6:.0f} MB more"
    good = [row[1] for row in found["R1", "g22"]]
    assert good == [bits(1.0), bits(math.nan)]


@contextmanager
def broker_with(directory: Path, **settings: Any) -> Iterator[tuple[Mosquitto, int]]:
    """A broker of the test's own, open on its own port, with a second listener of these settings on another."""
    port = free_port()
    broker = Mosquitto(directory / "broker", directory / "broker.log", listeners=(Listener(port, **settings),))
    broker.start()
    try:
        broker.wait_ready()
        yield broker, port
    finally:
        broker.stop()


def test_a_wrong_password_is_visible_and_recovers_when_corrected(kafka: str, tmp_path: Path) -> None:
    """With a wrong password the connector says why, counts as unhealthy and tries again; it recovers by itself when
    the password file is corrected, and the password never stands in the log."""
    users, password = tmp_path / "users", tmp_path / "password"
    subprocess.run(["mosquitto_passwd", "-b", "-c", str(users), "pump", "s3cret-right"], check=True)
    password.write_text("s3cret-wrong\n")
    with broker_with(tmp_path, password_file=users) as (broker, port):
        mqtt = f'port = {port}\nusername = "pump"\npassword_file = "{password}"'
        with Bench(kafka, broker, tmp_path, mqtt) as bench:
            process = bench.start()
            bench.says("refused the connection: Not authorized")
            assert bench.metric("twin_healthy") == 0
            assert bench.metric('twin_connected{peer="mqtt"}') == 0
            password.write_text("s3cret-right\n")
            bench.says("mqtt: connected again, after: ")
            assert bench.metric("twin_healthy") == 1
            bench.publish(bench.publisher(), "R1", "t", "1")
            bench.wait_for_readings(1)
            assert bench.stop(process) == 0
            assert "s3cret" not in bench.log.read_text()


def test_tls_with_certificates_of_both_sides(kafka: str, tmp_path: Path) -> None:
    """With CA and client certificate readings arrive over TLS; a certificate of another CA is refused, with the reason
    in the log, and the connector recovers when the right one is put in its place."""
    right, wrong = make_authority(tmp_path / "right"), make_authority(tmp_path / "wrong")
    shutil.copy(wrong / "ca.pem", tmp_path / "trusted.pem")
    with broker_with(
        tmp_path,
        allow_anonymous=True,
        ca_file=right / "ca.pem",
        cert_file=right / "server.pem",
        key_file=right / "server.key",
        require_certificate=True,
    ) as (broker, port):
        mqtt = (
            f'port = {port}\ntls = true\nca_file = "{tmp_path}/trusted.pem"\n'
            f'certificate_file = "{right}/client.pem"\nkey_file = "{right}/client.key"'
        )
        with Bench(kafka, broker, tmp_path, mqtt) as bench:
            process = bench.start()
            bench.says("certificate verify failed")
            shutil.copy(right / "ca.pem", tmp_path / "trusted.pem")
            bench.says("mqtt: connected again")
            client = bench.publisher()
            for n in range(300):
                bench.publish(client, "R1", f"t{n % 3}", {"value": n, "timestamp": BASE_NS + n})
            bench.publish(client, "R1", "long", {"value": "x" * 300_000})
            frames = bench.wait_for_readings(301)
            found = readings(frames)
            assert found.pop(("R1", "long"))[0][5] == "x" * 1000
            assert sorted(row[2] - BASE_NS for rows in found.values() for row in rows) == list(range(300))
            assert bench.stop(process) == 0


def test_a_broker_that_lost_the_session_leaves_a_gap(kafka: str, tmp_path: Path) -> None:
    """After a regular restart of the broker what was queued arrives and there is no gap; when it comes back without
    its store, every asset gets a gap frame from its last reading to the reconnection, and readings flow again."""
    broker = Mosquitto(tmp_path / "broker", tmp_path / "broker.log")
    broker.start()
    broker.wait_ready()
    try:
        with Bench(kafka, broker, tmp_path) as bench:
            process = bench.start_and_wait()
            client = bench.publisher()
            bench.publish(client, "R1", "t", {"value": 1, "timestamp": 1})
            bench.publish(client, "R2", "t", {"value": 1, "timestamp": 1})
            last_ns = {f.asset: int(f.arrival_time_ns[-1]) for f in bench.wait_for_readings(2) if len(f)}
            broker.stop()
            bench.says("mqtt: connection to 127.0.0.1", 1)
            until(lambda: bench.metric('twin_connected{peer="mqtt"}') == 0, 5, "not connected")
            broker.start()
            bench.says("mqtt: connected again", 1)
            bench.publish(client, "R1", "t", {"value": 2, "timestamp": 2})
            frames = bench.wait_for_readings(3)
            assert not [frame for frame in frames if frame.kind == "gap"]
            connected = [True, False, True]
            until(lambda: [f.connected for f in bench.raw() if f.asset == "R2"][:3] == connected, 10, "R2 is told")
            last_ns["R1"] = max(int(f.arrival_time_ns[-1]) for f in frames if f.asset == "R1" and len(f))

            broker.kill()
            for file in broker.directory.glob("*.db*"):
                file.unlink()
            broker.start()
            bench.says("mqtt: connected again", 2)
            bench.publish(client, "R1", "t", {"value": 3, "timestamp": 3})
            frames = bench.wait_for_readings(4)
            assert bench.stop(process) == 0
    finally:
        broker.stop()
    gaps = {frame.asset: frame for frame in frames if frame.kind == "gap"}
    assert set(gaps) == {"R1", "R2"}
    for asset, frame in gaps.items():
        assert frame.gap is not None
        assert (frame.gap.from_ns, frame.gap.lost, frame.gap.cause) == (last_ns[asset], None, "MQTT session lost")
        assert frame.gap.to_ns <= frame.time_ns
        assert frame.tags == ()
    assert_identities_have_no_holes(frames)


def test_a_restarted_process_misses_what_the_earlier_one_knew(kafka: str, tmp_path: Path) -> None:
    """When connector and broker both come back, the broker without its store, the assets of the earlier process get
    gap frames and heartbeats although not one reading has come; a file of nonsense is lived without."""
    broker = Mosquitto(tmp_path / "broker", tmp_path / "broker.log")
    broker.start()
    broker.wait_ready()
    try:
        with Bench(kafka, broker, tmp_path, more="[mqtt.framing]\nheartbeat_s = 0.5") as bench:
            process = bench.start_and_wait()
            bench.publish(bench.publisher(), "R1", "t", {"value": 1, "timestamp": 1})
            first = bench.wait_for_readings(1)[0]
            last_ns = int(first.arrival_time_ns[-1])
            assert bench.stop(process) == 0
            broker.kill()
            for file in broker.directory.glob("*.db*"):
                file.unlink()
            broker.start()
            process = bench.start_and_wait()

            def told() -> list[tuple[str, bool]]:
                return [(f.kind, f.connected) for f in bench.raw() if f.epoch != first.epoch]

            until(lambda: told()[-2:] == [("heartbeat", True)] * 2, 10, "heartbeats of an asset not heard yet")
            assert told()[0] == ("heartbeat", False)
            assert bench.stop(process) == 0
            (gap,) = [f.gap for f in bench.raw() if f.gap]
            assert gap.from_ns == last_ns
            assert_identities_have_no_holes(bench.raw())

            (tmp_path / "state" / f"{bench.root}.assets.json").write_text("[nonsense")
            assert bench.stop(bench.start_and_wait()) == 0
            bench.says("assets.json cannot be read")
    finally:
        broker.stop()


def test_a_filter_that_is_gone_is_unsubscribed(kafka: str, mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """When assets are moved to another connector, this one gets their messages no longer: nothing is in rejected."""
    with Bench(kafka, mqtt_broker, tmp_path) as bench:
        assert bench.stop(bench.start_and_wait()) == 0
        bench.configure(filters=f'["{bench.root}/R1/sensor/#"]')
        process = bench.start_and_wait()
        bench.says("has no subscriptions any more but those configured")
        client = bench.publisher()
        for asset in ("R2", "R1"):
            bench.publish(client, asset, "t", {"value": 1, "timestamp": BASE_NS}).wait_for_publish(5)
        frames = bench.wait_for_readings(1)
        assert bench.stop(process) == 0
        assert {frame.asset for frame in frames} == {"R1"}
        assert bench.rejected() == []


def test_silent_assets_have_heartbeats(kafka: str, mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """An asset without readings gets heartbeats at the configured interval, connected, without holes in seq."""
    with Bench(kafka, mqtt_broker, tmp_path, more="[mqtt.framing]\nheartbeat_s = 0.3") as bench:
        process = bench.start_and_wait()
        bench.publish(bench.publisher(), "R1", "t", "1")
        frames = until(lambda: f if len(f := bench.raw()) >= 5 else None, 10, "four heartbeats")
        assert bench.stop(process) == 0
    assert [f.kind for f in frames][:5] == ["readings", *["heartbeat"] * 4]
    assert all(f.connected for f in frames)
    apart_s = [(b.time_ns - a.time_ns) / 1e9 for a, b in pairwise(frames[:5])]
    assert all(0.3 <= s < 0.8 for s in apart_s), apart_s
    assert_identities_have_no_holes(frames)


def test_reduction_leaves_out_and_acknowledges(kafka: str, mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """With a deadband more messages than may be unacknowledged are left out without blocking the ones that count; the
    configured unit is used where the payload has none; another tag is not reduced."""
    more = '[tags."*/slow"]\ndeadband = 1.0\nunit = "bar"'
    with Bench(kafka, mqtt_broker, tmp_path, "receive_maximum = 8", more) as bench:
        process = bench.start_and_wait()
        client = bench.publisher()
        for n in range(400):
            bench.publish(client, "R1", "slow", {"value": n // 100 * 2 + n % 2 / 2, "timestamp": BASE_NS + n})
        bench.publish(client, "R1", "other", {"value": 7, "unit": "K", "timestamp": BASE_NS})
        bench.publish(client, "R1", "other", {"value": 7, "unit": "K", "timestamp": BASE_NS + 1})
        frames = bench.wait_for_readings(6)
        until(lambda: bench.metric("twin_reduced_total") == 396, 5, "396 left out")
        assert bench.stop(process) == 0
    found = readings(frames)
    assert [row[:3] for row in found["R1", "slow"]] == [("bar", bits(2.0 * i), BASE_NS + 100 * i) for i in range(4)]
    assert len(found["R1", "other"]) == 2


def test_a_retained_message_needs_a_time(kafka: str, mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """A retained value that waited in the broker is a reading if it says when it was measured, else it is rejected."""
    with Bench(kafka, mqtt_broker, tmp_path) as bench:
        client = bench.publisher()
        bench.publish(client, "R1", "timed", {"value": 1, "timestamp": BASE_NS}, retain=True).wait_for_publish(5)
        bench.publish(client, "R1", "untimed", {"value": 2}, retain=True).wait_for_publish(5)
        process = bench.start_and_wait()
        frames = bench.wait_for_readings(1)
        (rejected,) = until(bench.rejected, 10, "the rejected one")
        assert bench.stop(process) == 0
        for tag in ("timed", "untimed"):
            bench.publish(client, "R1", tag, b"", retain=True).wait_for_publish(5)
    assert set(readings(frames)) == {("R1", "timed")}
    assert (rejected.tag, rejected.payload) == ("untimed", b'{"value": 2}')
    assert "retained" in rejected.reason


def test_an_unknown_connector_is_a_wrong_configuration() -> None:
    """A connector id that the configuration does not have ends with the code that says so."""
    assert run(Plant(), "nobody") == BAD_CONFIGURATION
