"""The OPC UA connector's process against a real server over TCP and real Kafka: completeness, quality, faults."""

import math
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from tests.connectors.opcua_tools import Bench, ConnectorProcess, ServerProcess, bench, until

pytestmark = pytest.mark.services

SECOND = 1_000_000_000
Row = tuple[int, float, int, str | None]


@pytest.fixture(scope="module")
def running(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bench, ServerProcess]]:
    """A server of 20 variables and a connector that was told its address and nothing else."""
    with bench(kafka, tmp_path_factory.mktemp("opcua")) as made:
        server = made.server(assets=5, tags=["Temperature", "FlowRate"], roles=["PV", "SV"])
        connector = made.connector(server)
        connector.says("subscribed to 20 items of 5 assets")
        until(lambda: made.raw.count() >= 20, 10, "the first values")
        yield made, server


def rows(made: Bench, tag: str, since_ns: int) -> list[Row]:
    """Readings of a tag from a source time on, without repetitions."""
    return list(dict.fromkeys(row for row in made.raw.readings()[tag] if row[0] >= since_ns))


def times(made: Bench, tag: str) -> list[int]:
    """Source times of a tag's readings."""
    return [row[0] for row in made.raw.readings()[tag]]


def now_us() -> int:
    """Now in ns, without what the test server's clock cannot hold."""
    return time.time_ns() // 1000 * 1000


def test_everything_arrives_in_order_to_the_bit(running: tuple[Bench, ServerProcess]) -> None:
    """2,000 changes of 20 variables found by discovery arrive complete, in order, with value, time, unit and tag."""
    made, server = running
    start = now_us()
    server.do("script", changes=100, pause_s=0.01, from_ns=start, step_ns=1_000_000)
    names = [f"R{a}/{tag}{sv}" for a in range(5) for tag in ("temperature", "flow_rate") for sv in ("", ".sv")]
    until(lambda: sum(len(rows(made, name, start)) for name in names) >= 2000, 10, "2,000 readings")
    for number, name in enumerate(names):
        wanted = [(start + change * 1_000_000, change + number / 1000, 0, None) for change in range(100)]
        assert [row for row in made.raw.readings()[name] if row[0] >= start] == wanted
    assert {unit for frame in made.raw.frames for unit in frame.units} == {"degC"}


def test_frames_of_an_asset_have_no_hole(running: tuple[Bench, ServerProcess]) -> None:
    """PV and SV of an asset share frames, whose seq counts from 0 without holes in one epoch."""
    made, _ = running
    mine = [frame for frame in made.raw.frames if frame.asset == "R0"]
    assert [frame.seq for frame in mine] == list(range(len(mine)))
    assert len({frame.epoch for frame in mine}) == 1
    assert {"temperature", "temperature.sv"} <= set(next(frame for frame in mine if len(frame)).tags)


def test_status_and_text_are_kept_as_they_came(running: tuple[Bench, ServerProcess]) -> None:
    """Uncertain and Bad codes pass unchanged; a value without a number is NaN and says why."""
    made, server = running
    start = now_us()
    sent = [(1.5, 0x40920000), (None, 0x80050000), (2.5, 0x00000000), (float("inf"), 0x40000000)]
    for i, (value, status) in enumerate(sent):
        server.do("write", name="Reactor.R1.FlowRate.PV", value=value, status=status, time_ns=start + i * 1000)
    until(lambda: len(rows(made, "R1/flow_rate", start)) == 4, 10, "4 readings")
    found = rows(made, "R1/flow_rate", start)
    assert [row[2] for row in found] == [status for _, status in sent]
    assert [row[1] for row in found if not math.isnan(row[1])] == [1.5, 2.5, math.inf]
    assert math.isnan(found[1][1]) and found[1][3] == "BadCommunicationError"


def test_overflow_becomes_a_gap_frame(running: tuple[Bench, ServerProcess]) -> None:
    """A value with the overflow bits is preceded by a gap frame from the last reading to this one."""
    made, server = running
    start = now_us()
    server.do("write", name="Reactor.R2.Temperature.PV", value=1, time_ns=start)
    server.do("write", name="Reactor.R2.Temperature.PV", value=2, time_ns=start + SECOND, status=0x480)
    until(lambda: len(rows(made, "R2/temperature", start)) == 2, 10, "both readings")
    [frame] = [f for f in made.raw.gaps() if f.gap and "overflow" in f.gap.cause]
    assert frame.gap is not None
    assert (frame.asset, frame.tags) == ("R2", ("temperature",))
    assert (frame.gap.from_ns, frame.gap.to_ns) == (start, start + SECOND)


def test_a_lost_notification_becomes_gap_frames(running: tuple[Bench, ServerProcess]) -> None:
    """Where a sequence number is missing and cannot be republished, every tag that goes on has a gap frame."""
    made, server = running
    start = now_us()
    server.do("write", name="Reactor.R3.Temperature.PV", value=1, time_ns=start)
    until(lambda: rows(made, "R3/temperature", start), 10, "the reading before")
    server.do("forget", sequence=1)
    server.do("write", name="Reactor.R3.Temperature.PV", value=2, time_ns=start + SECOND)
    until(lambda: len(rows(made, "R3/temperature", start)) == 2, 10, "the reading after")
    [frame] = [f for f in made.raw.gaps() if f.gap and "notifications lost" in f.gap.cause]
    assert frame.gap is not None
    assert (frame.asset, frame.tags, frame.gap.from_ns, frame.gap.to_ns) == (
        "R3",
        ("temperature",),
        start,
        start + SECOND,
    )


def test_a_cut_connection_loses_nothing(running: tuple[Bench, ServerProcess]) -> None:
    """Connections that break while values change cost no reading and leave no gap frame: the session goes on."""
    made, server = running
    start = now_us()
    server.do("script", changes=1, pause_s=0, from_ns=start, step_ns=0)
    until(lambda: rows(made, "R4/temperature", start), 10, "readings that close the holes of other tests")
    start = now_us()
    for cut in range(3):
        server.do("script", changes=20, pause_s=0.01, from_ns=start + cut * 100_000_000, step_ns=1_000_000)
        server.do("cut")
        server.do("script", changes=20, pause_s=0.01, from_ns=start + cut * 100_000_000 + 20_000_000, step_ns=1_000_000)
    until(lambda: len(rows(made, "R4/temperature", start)) >= 120, 20, "all readings")
    wanted = [start + cut * 100_000_000 + change * 1_000_000 for cut in range(3) for change in range(40)]
    for name in ("R0/temperature", "R4/flow_rate.sv"):
        assert [row[0] for row in rows(made, name, start)] == wanted
    assert [frame.gap for frame in made.raw.gaps() if frame.gap and frame.gap.from_ns >= start] == []


def test_a_removed_node_is_bad_and_comes_back(running: tuple[Bench, ServerProcess]) -> None:
    """A variable that is deleted gives a BAD reading; made again, it is subscribed again within 10 s, with a gap."""
    made, server = running
    start = now_us()
    server.do("write", name="Reactor.R4.FlowRate.PV", value=1, time_ns=start)
    until(lambda: rows(made, "R4/flow_rate", start), 10, "the reading before")
    server.do("delete", name="Reactor.R4.FlowRate.PV")
    bad: Row = until(lambda: next((r for r in rows(made, "R4/flow_rate", start) if r[2]), None), 10, "the BAD reading")
    assert (bad[2], bad[3]) == (0x80340000, "BadNodeIdUnknown")
    back = now_us()
    server.do("add", name="Reactor.R4.FlowRate.PV", start=7, time_ns=back)
    until(lambda: (back, 7.0, 0, None) in rows(made, "R4/flow_rate", start), 10, "the reading after")
    [frame] = [f for f in made.raw.gaps() if f.gap and f.gap.cause == "node missing"]
    assert frame.gap is not None
    assert (frame.tags, frame.gap.from_ns, frame.gap.to_ns) == (("flow_rate",), start, back)


@pytest.mark.kill
def test_a_server_that_restarts_and_renumbers(kafka: str, tmp_path: Path) -> None:
    """After a server's kill and restart with other namespace indices, the right variables flow within 10 s; the hole
    is a gap frame from the last reading to the first new one; meanwhile heartbeats say: not connected."""
    with bench(kafka, tmp_path) as made:
        server = made.server(assets=1, tags=["Temperature"])
        node = 'nodes = [{ node = "ns=2;s=Reactor.R0.Temperature.PV", asset = "R0", tag = "hot", unit = "K" }]'
        made.connector(server, node).says("subscribed to 1 items")
        start = now_us()
        server.do("write", name="Reactor.R0.Temperature.PV", value=1, time_ns=start)
        until(lambda: rows(made, "R0/hot", start), 10, "the reading before")
        server.kill()
        until(lambda: any(f.kind == "heartbeat" and not f.connected for f in made.raw.frames), 10, "a heartbeat")
        server.restart(other_namespaces=3)
        again = time.monotonic()
        until(lambda: len(rows(made, "R0/hot", start)) == 2, 10, "the reading after")
        assert time.monotonic() - again < 10
        [frame] = made.raw.gaps()
        assert frame.gap is not None
        assert frame.gap.from_ns == start
        assert frame.gap.to_ns == rows(made, "R0/hot", start)[1][0]
        assert frame.units == ("",)
        assert next(f for f in made.raw.frames if len(f)).units == ("K",)


@pytest.mark.kill
def test_kill_9_of_the_connector(kafka: str, tmp_path: Path) -> None:
    """Killed while values change, the connector goes on without loss where the server's queues held out; where they did
    not, a gap frame has the exact interval, though this server sets no overflow bit."""
    with bench(kafka, tmp_path) as made:
        server = made.server(assets=2, tags=["Temperature", "Pressure"])
        connector = made.connector(server)
        connector.says("subscribed to 4 items")
        start = now_us()
        server.do("script", changes=30, pause_s=0.01, from_ns=start, step_ns=1_000_000)
        connector.kill()
        server.do("script", changes=60, pause_s=0.001, from_ns=start + 30_000_000, step_ns=1_000_000)
        connector.restart()
        connector.says("went on with our subscription")
        until(lambda: len(rows(made, "R1/pressure", start)) == 90, 10, "90 readings")
        for name in ("R0/temperature", "R0/pressure", "R1/temperature", "R1/pressure"):
            assert [row[0] for row in rows(made, name, start)] == [start + i * 1_000_000 for i in range(90)]
        assert made.raw.gaps() == []
        connector.kill()
        server.do("script", changes=400, pause_s=0.001, from_ns=start + SECOND, step_ns=1_000_000)
        connector.restart()
        sent = [start + SECOND + i * 1_000_000 for i in range(400)]
        for name in ("R0/temperature", "R1/pressure"):
            until(lambda name=name: sent[-1] in times(made, name), 15, f"the last reading of {name}")
            asset, tag = name.split("/")
            gaps = [f.gap for f in made.raw.gaps() if f.asset == asset and tag in f.tags and f.gap is not None]
            assert [(gap.from_ns, gap.to_ns) for gap in gaps] == holes(made, name, [start + 89 * 1_000_000, *sent])


def holes(made: Bench, name: str, sent: list[int]) -> list[tuple[int, int]]:
    """From the last reading before to the first one after each part of `sent` that did not come; at least one part."""
    came = sorted(set(times(made, name)) & set(sent))
    found = [(a, b) for a, b in pairwise(came) if sent.index(b) - sent.index(a) > 1]
    assert found, f"all of {len(sent)} readings of {name} came: the queues did not overflow"
    return found


def test_history_fills_the_hole(kafka: str, tmp_path: Path) -> None:
    """A node marked historised has no hole after its session ended: HistoryRead gives what changed; others have a gap
    frame. The server may end the session while the connector is stopped, too."""
    with bench(kafka, tmp_path) as made:
        server = made.server(assets=1, tags=["Temperature", "Pressure"], historise=True)
        node = '{{ node = "nsu=urn:process-twin:tests;s=Reactor.R0.{0}.PV", asset = "R0", tag = "{1}"{2} }}'
        told = node.format("Temperature", "temperature", ", historised = true")
        nodes = f"nodes = [{told}, {node.format('Pressure', 'pressure', '')}]"
        connector = made.connector(server, nodes)
        connector.says("subscribed to 2 items")
        start = now_us()
        server.do("script", changes=1, pause_s=0.3, from_ns=start, step_ns=0, first=1)
        until(lambda: rows(made, "R0/temperature", start), 10, "the reading before")
        assert connector.stop() == 0
        server.do("end_sessions")
        server.do("script", changes=50, pause_s=0.02, from_ns=start + 1_000_000, step_ns=1_000_000, first=2)
        connector.restart()
        until(lambda: len(rows(made, "R0/temperature", start)) == 51, 15, "the whole series")
        assert [row[0] for row in rows(made, "R0/temperature", start)] == [start + i * 1_000_000 for i in range(51)]
        [frame] = made.raw.gaps()
        assert frame.gap is not None
        assert (frame.tags, frame.gap.from_ns, frame.gap.to_ns) == (("pressure",), start, start + 50_000_000)


def test_cyclic_reads_and_clean_stop(kafka: str, tmp_path: Path) -> None:
    """A node marked cyclic is read at its interval, not subscribed; SIGTERM ends the process with 0."""
    with bench(kafka, tmp_path) as made:
        server = made.server(assets=1, tags=["Ph"])
        node = 'node = "ns=2;s=Reactor.R0.Ph.PV", asset = "R0", tag = "ph", read = "cyclic", interval_s = 0.2'
        connector = made.connector(server, f"nodes = [{{ {node} }}]")
        connector.says("subscribed to 0 items")
        start = now_us()
        server.do("script", changes=6, pause_s=1.0, from_ns=start, step_ns=1_000_000)
        until(lambda: len(rows(made, "R0/ph", start)) == 6, 20, "every change, as it is slower than the reads")
        assert connector.stop() == 0
        assert "stopped" in connector.tail()
        assert_no_error(connector)


def test_a_clean_stop_loses_no_more_than_a_crash(kafka: str, tmp_path: Path) -> None:
    """The server keeps the subscription of a connector that is stopped (SIGTERM), and the next process goes on with it:
    no reading is missing and there is no gap."""
    with bench(kafka, tmp_path) as made:
        server = made.server(assets=1, tags=["Temperature"])
        connector = made.connector(server)
        connector.says("subscribed to 1 items")
        start = now_us()
        server.do("script", changes=30, pause_s=0.01, from_ns=start, step_ns=1_000_000)
        assert connector.stop() == 0
        server.do("script", changes=60, pause_s=0.001, from_ns=start + 30_000_000, step_ns=1_000_000, first=30)
        connector.restart()
        connector.says("went on with our subscription")
        until(lambda: len(rows(made, "R0/temperature", start)) >= 90, 30, "90 readings")
        assert times(made, "R0/temperature")[-90:] == [start + i * 1_000_000 for i in range(90)]
        assert made.raw.gaps() == []
        assert_no_error(connector)


def assert_no_error(connector: ConnectorProcess) -> None:
    """Nothing went wrong that the log tells."""
    assert not [line for line in connector.log.read_text().splitlines() if " ERROR " in line or "Traceback" in line]
