"""Processes whose loops are really blocked end by themselves, in time, and nothing is lost."""

import os
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from confluent_kafka import Producer

from runtime.config import Kafka
from runtime.exit_codes import OK, RESTART_ME
from runtime.kafka import client_settings, create_topics
from runtime.partitions import home_partition
from schemas.codec import decode_as, encode
from schemas.frames import ValidatedFrame
from schemas.topics import RAW, VALIDATED
from services.mosquitto import Mosquitto
from tests.agents.counting import frame
from tests.agents.kill_audit import records
from tests.connectors.mqtt_tools import Bench, assert_identities_have_no_holes, readings, until
from tests.connectors.opcua_tools import bench as opcua_bench

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[2]
WATCHDOG_S = 5.0
#: From getting stuck to the end: patience, the last beats before, and what a machine takes that is busy with others.
ENDS_S = WATCHDOG_S + 25.0
STARTS_S = 150.0
ASSETS = ("R1", "R2", "R3")
FRAMES = 10


@dataclass
class Stuck:
    """A process that will get stuck as `how` says; the next one started with the same folder will not."""

    how: str
    folder: Path
    arguments: list[str]

    def __post_init__(self) -> None:
        self.folder.mkdir()
        self.log = self.folder / "log"
        self.stuck = self.folder / "stuck"
        self.process = self.start()

    def start(self) -> "subprocess.Popen[bytes]":
        """Start it, again."""
        environment = {**os.environ, "STUCK": self.how, "STUCK_UNTIL": str(self.stuck)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.runtime.stuck", *self.arguments], cwd=ROOT, env=environment, stderr=log
            )
        return self.process

    def ended(self) -> tuple[int, float]:
        """Exit code, and seconds from getting stuck to the end."""
        until(self.stuck.exists, STARTS_S, f"{self.how} stuck; {self.tail()}")
        code = self.process.wait(STARTS_S)
        return code, time.time() - self.stuck.stat().st_mtime

    def tail(self) -> str:
        """What it said."""
        return self.log.read_text()[-4000:]


@pytest.fixture
def started() -> Iterator[list[Stuck]]:
    """Processes that are killed at the end, stuck or not."""
    ours: list[Stuck] = []
    yield ours
    for one in ours:
        one.process.kill()
        one.process.wait()


def topics(bootstrap: str) -> Kafka:
    """Topics of one worker's own, with frames in them."""
    kafka = Kafka(bootstrap=bootstrap, prefix=f"s{uuid.uuid4().hex[:8]}", partitions=2)
    create_topics(kafka)
    producer = Producer({**client_settings(kafka), "enable.idempotence": True})
    for seq in range(FRAMES):
        for asset in ASSETS:
            home = home_partition(asset.encode(), 2)
            producer.produce(RAW.full_name(kafka.prefix), encode(frame(asset, seq)), asset.encode(), home)
    assert producer.flush(20) == 0
    return kafka


def agent(kafka: Kafka, watchdog_s: float = WATCHDOG_S) -> list[str]:
    """Arguments of a counting worker."""
    numbers = {"partitions": 2, "checkpoint_s": 0.5, "gather_s": 0, "watchdog_s": watchdog_s}
    return ["agent", kafka.address, kafka.prefix, "counting", *(f"{name}={n}" for name, n in numbers.items())]


def counted(kafka: Kafka) -> set[tuple[str, int, int]]:
    """(asset, seq, frames its state had counted) of all outputs; equal ones are one."""
    outs = [decode_as(value, ValidatedFrame) for _, _, value in records(kafka, VALIDATED.full_name(kafka.prefix))]
    return {(out.asset, out.seq, out.repeated) for out in outs}


ALL = {(asset, seq, seq + 1) for asset in ASSETS for seq in range(FRAMES)}


@pytest.mark.soak
def test_agents_that_stick_end_and_the_next_goes_on(kafka: str, tmp_path: Path, started: list[Stuck]) -> None:
    """An agent whose event loop sleeps or is kept busy by a C function that lets no other thread run, whose records do
    not advance or whose recovery does not end leaves with 75 in time, with the reason; the next one applies every frame
    once."""
    cases = {
        "take@7:sleep": "the main loop has been stuck for",
        "take@7:busy": "in stick",  # no Python code runs any more; the trace says where it was
        "wait@7": "records wait",
        "recovery": "no partitions were assigned, or a recovery does not end",
    }
    brokers = {how: topics(kafka) for how in cases}
    started += [Stuck(how, tmp_path / str(n), agent(brokers[how])) for n, how in enumerate(cases)]
    for one in started:
        code, took_s = one.ended()
        assert code == RESTART_ME, (one.how, code, one.tail())
        assert took_s < ENDS_S + (WATCHDOG_S if one.how in ("wait@7", "recovery") else 0), (one.how, took_s)
        assert cases[one.how] in one.tail(), (one.how, one.tail())
    for one in started:
        one.start()
    for one in started:
        until(lambda one=one: counted(brokers[one.how]) >= ALL, STARTS_S, f"{one.how}: all frames")  # type: ignore[misc]
        assert counted(brokers[one.how]) == ALL, one.how


def test_an_assignment_that_never_ends(kafka: str, tmp_path: Path, started: list[Stuck]) -> None:
    """A worker that waits for a rebalance which another member holds up leaves with 75 instead of waiting for ever.

    The next one is patient: Kafka gives up the killed member, then the one that left while joining, one session timeout
    after the other.
    """
    broker = topics(kafka)
    started.append(holder := Stuck("revoked", tmp_path / "holder", agent(broker, watchdog_s=3600)))
    until(lambda: counted(broker) == ALL, STARTS_S, "the first one's work")
    started.append(waiter := Stuck("", tmp_path / "waiter", agent(broker)))
    until(holder.stuck.exists, STARTS_S, "the rebalance is held up")
    assert waiter.process.wait(STARTS_S) == RESTART_ME
    assert "no partitions were assigned" in waiter.tail()
    holder.process.kill()
    started.append(following := Stuck("", tmp_path / "following", agent(broker, watchdog_s=60)))
    until(lambda: "reading 2 partitions" in following.tail(), STARTS_S, "the next one works")
    following.process.terminate()
    assert following.process.wait(20) == OK


@pytest.mark.soak
def test_connectors_that_stick_end_and_the_next_goes_on(
    kafka: str, mqtt_broker: Mosquitto, tmp_path: Path, started: list[Stuck]
) -> None:
    """An MQTT connector whose loop sleeps or is kept busy in C, one of whose Kafka threads sleeps or dies, leaves
    with 75 in time; the next one delivers every message. An OPC UA connector whose event loop sleeps does, too."""
    cases = {
        "mqtt:sleep": "the main loop has been stuck for",
        "mqtt:busy": "in stick",
        "kafka:sleep": "the Kafka thread has been stuck for",
        "kafka:dead": "the Kafka thread failed: SystemExit",
        "tend:sleep": "the thread that renews the Kafka client and keeps the spool has been stuck for",
    }
    benches = []
    for n, how in enumerate(cases):
        (tmp_path / f"bench{n}").mkdir()
        benches.append(bench := Bench(kafka, mqtt_broker, tmp_path / f"bench{n}", f"watchdog_s = {WATCHDOG_S}"))
        started.append(Stuck(how, tmp_path / str(n), ["mqtt", str(bench._config), bench.root]))
    with opcua_bench(kafka, tmp_path) as ua:
        server = ua.server(assets=2)
        config = ua.write_config(server, f"watchdog_s = {WATCHDOG_S}")
        started.append(by_opcua := Stuck("opcua:sleep", tmp_path / "ua", ["opcua", str(config), "ua"]))
        try:
            for one in started:
                until(lambda one=one: "connected" in one.tail(), STARTS_S, one.how)  # type: ignore[misc]
            for bench in benches:
                client = bench.publisher()
                sent = [bench.publish(client, "R1", "t", {"value": n, "timestamp": n + 1}) for n in range(50)]
                for info in sent:
                    info.wait_for_publish(60)
            start_ns = time.time_ns() // 1000 * 1000
            server.do("script", changes=60, pause_s=0.01, from_ns=start_ns, step_ns=1_000_000)
            for one in started:
                code, took_s = one.ended()
                assert code == RESTART_ME, (one.how, code, one.tail())
                assert took_s < ENDS_S, (one.how, took_s)
                assert cases.get(one.how, "the main loop has been stuck for") in one.tail(), (one.how, one.tail())
                one.start()
            for bench in benches:
                frames = bench.wait_for_readings(50, STARTS_S)
                assert_identities_have_no_holes(frames)
                assert {row[2] for row in readings(frames)["R1", "t"]} == {(n + 1) * 10**9 for n in range(50)}
            until(lambda: len(_since(ua.raw.readings()["R0/temperature"], start_ns)) >= 60, STARTS_S, by_opcua.tail())
            wanted = [start_ns + n * 1_000_000 for n in range(60)]
            assert sorted(set(_since(ua.raw.readings()["R1/temperature"], start_ns))) == wanted
            assert ua.raw.gaps() == []
        finally:
            for bench in benches:
                bench.__exit__(None, None, None)


def _since(rows: list[tuple[int, float, int, str | None]], start_ns: int) -> list[int]:
    return [row[0] for row in rows if row[0] >= start_ns]
