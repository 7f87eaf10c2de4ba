"""What gap frames excuse, and when the auditor says that they are inexact. Without Kafka."""

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest

from audit.journal import Journal
from audit.kafka import Record, home
from audit.raw import Raw
from schemas.codec import encode
from schemas.frames import Frame, Gap
from tests.audit.flow import PARTITIONS, SECOND_NS, START_NS, Flow

ASSET = "holes-A"
FOR_EVER_NS = 2**62


def at(second: float) -> int:
    """A time, ns since 1970."""
    return START_NS + round(second * SECOND_NS)


@dataclass
class Run:
    """Temperatures come by MQTT and pressures by OPC UA, ten a second, a frame of each every second."""

    flow: Flow = field(default_factory=lambda: Flow("holes"))
    frames: list[Frame] = field(default_factory=list)
    seqs: dict[str, int] = field(default_factory=dict)

    def sent(self, protocol: str, begin: float, end: float) -> list[int]:
        """The journal has readings of these seconds; returns their times."""
        tag = {"mqtt": "temperature", "opcua": "pressure"}[protocol]
        times = list(range(at(begin), at(end), SECOND_NS // 10))
        for time_ns in times:
            self.flow.line(ASSET, tag, time_ns, 1.0, protocol=protocol)
        return times

    def came(self, protocol: str, begin: float, end: float) -> None:
        """They were sent, and are in raw."""
        times = self.sent(protocol, begin, end)
        self.read(protocol, times)

    def read(self, protocol: str, times: list[int], **changes: Any) -> None:
        """A frame with readings of these times."""
        tag = np.full(len(times), protocol == "opcua", np.uint16)
        self.add(self.flow.frame(ASSET, 0, times, [1.0] * len(times), tag=tag, source=f"{protocol}-1", **changes))

    def told(
        self, source: str, from_ns: int, to_ns: int, tags: tuple[str, ...] = (), *, made: float = 20.0,
        cause: str = "lost", count: int | None = None,
    ) -> None:  # fmt: skip
        """A gap frame, made at a time in s."""
        gap = Gap(from_ns=from_ns, to_ns=to_ns, cause=cause, lost=count)
        frame = self.flow.without_readings(ASSET, 0, gap, tags)
        self.add(replace(frame, source=source, time_ns=at(made)))

    def add(self, frame: Frame) -> None:
        """One more frame of its source."""
        seq = self.seqs[frame.source] = self.seqs.get(frame.source, -1) + 1
        self.frames.append(replace(frame, seq=seq))

    def faults(self) -> dict[str, int]:
        """What the auditor finds wrong."""
        raw = Raw(PARTITIONS, "raw")
        for offset, frame in enumerate(self.frames):
            key = frame.asset.encode()
            raw.add(Record(home(key, PARTITIONS), offset, key, encode(frame)))
        journal = Journal()
        for line in self.flow.lines:
            journal.add(line)
        raw.compare(journal)
        return {name: count for name, count in raw.tally.faults.items() if count}


@pytest.fixture
def run() -> Run:
    """Ten seconds have come by both ways."""
    made = Run()
    for second in range(10):
        made.came("mqtt", second, second + 1)
        made.came("opcua", second, second + 1)
    return made


def test_a_hole_of_another_source_excuses_nothing(run: Run) -> None:
    """What came by MQTT is not excused by what an OPC UA connector tells, from whenever to whenever."""
    run.sent("mqtt", 10, 12)
    run.told("opcua-1", 0, FOR_EVER_NS, count=0)
    run.came("mqtt", 12, 14)
    run.came("opcua", 10, 14)
    assert run.faults() == {"missing": 20, "inexact": 1}


def test_a_source_of_which_nothing_came_excuses_nothing(run: Run) -> None:
    """A gap frame of a source that the asset's readings never came by tells nothing of them."""
    run.sent("mqtt", 10, 12)
    run.told("mqtt-2", at(9.9), at(12), made=12)
    run.came("mqtt", 12, 14)
    assert run.faults()["missing"] == 20


def test_a_hole_of_an_asset_reaches_from_its_last_reading_until_now(run: Run) -> None:
    """A lost session is told from the asset's last reading to the connector's clock; a connector that was killed may
    begin a few seconds before.
    """
    run.sent("mqtt", 10, 12)
    run.told("mqtt-1", at(9.9), at(12), made=12)
    run.told("mqtt-1", at(7.5), at(12), made=12)
    run.came("mqtt", 12, 14)
    assert run.faults() == {}


@pytest.mark.parametrize(("from_s", "to_s"), [(-100.0, 12.0), (2.0, 12.0), (9.9, 15.0)])
def test_a_hole_of_an_asset_that_reaches_further_is_inexact(run: Run, from_s: float, to_s: float) -> None:
    """One that begins long before the asset's last reading, or ends in the future, could excuse anything."""
    run.sent("mqtt", 10, 12)
    run.told("mqtt-1", at(from_s), at(to_s), made=12)
    run.came("mqtt", 12, 14)
    assert run.faults() == {"inexact": 1}


def test_a_late_reading_moves_the_hole_of_its_asset(run: Run) -> None:
    """The connector goes by what came last, also where that was measured an hour ago."""
    late = run.sent("mqtt", -3600, -3599.9)
    run.read("mqtt", late, arrival_time_ns=np.array([at(10.0)]))
    run.sent("mqtt", 10, 12)
    run.told("mqtt-1", late[0], at(12), made=12)
    run.came("mqtt", 12, 14)
    assert run.faults() == {}


def test_what_the_spool_lost_begins_when_only_the_spool_knows(run: Run) -> None:
    """A damaged spool is told of from its beginning on; beyond the time of its frame no hole may reach."""
    run.sent("mqtt", 10, 12)
    run.told("mqtt-1", at(0), at(12), made=12, cause="spool: damaged")
    run.came("mqtt", 12, 14)
    assert run.faults() == {}
    run.told("mqtt-1", at(0), FOR_EVER_NS, made=14, cause="spool: damaged")
    assert run.faults() == {"inexact": 1}


def test_a_hole_of_a_tag_lies_between_two_readings(run: Run) -> None:
    """From the last reading to the next one, both included, or within."""
    run.sent("opcua", 10, 12)
    run.told("opcua-1", at(9.9), at(12), ("pressure",))
    run.told("opcua-1", at(10), at(11.9), ("pressure",))
    run.came("opcua", 12, 14)
    assert run.faults() == {}


def test_a_hole_of_a_tag_may_lie_behind_the_first_readings_of_its_write(run: Run) -> None:
    """Gap frames stand before all readings of a write, also before those that came before the hole."""
    first = run.sent("opcua", 10, 11)
    run.sent("opcua", 11, 12)
    run.told("opcua-1", at(10.9), at(12), ("pressure",))
    run.read("opcua", [*first, *run.sent("opcua", 12, 13)])
    assert run.faults() == {}


def test_a_hole_of_a_connector_that_was_killed_may_begin_within_its_last_frame(run: Run) -> None:
    """Whether its last frame is in Kafka it may not know; of the one before it does."""
    run.sent("opcua", 10, 12)
    run.told("opcua-1", at(8.9), at(12), ("pressure",))
    run.came("opcua", 12, 14)
    assert run.faults() == {}


@pytest.mark.parametrize(("from_s", "to_s"), [(0.0, 12.0), (8.0, 12.0), (9.9, 12.5), (9.9, 1e6)])
def test_a_hole_of_a_tag_that_reaches_further_is_inexact(run: Run, from_s: float, to_s: float) -> None:
    """One that has readings inside which are there says too much."""
    run.sent("opcua", 10, 12)
    run.told("opcua-1", at(from_s), at(to_s), ("pressure",))
    run.came("opcua", 12, 14)
    assert run.faults() == {"inexact": 1}


def test_the_hole_of_a_clock_that_was_set_back(run: Run) -> None:
    """From the new reading to the last one, whatever was measured between these times before."""
    run.told("opcua-1", at(5.05), at(9.9), ("pressure",))
    run.read("opcua", [at(5.05)])
    run.flow.line(ASSET, "pressure", at(5.05), 1.0, protocol="opcua", sent_ns=at(12))
    assert run.faults() == {}


def test_a_server_without_a_value_ends_no_hole(run: Run) -> None:
    """Statuses that say that there is no value stand between the last reading and the next, in as many frames."""
    run.sent("opcua", 10, 12)
    for second in (10.05, 10.15, 10.25):
        run.read("opcua", [at(second)], status=np.array([0x80340000], np.uint32))
        run.flow.line(ASSET, "pressure", at(second), 1.0, protocol="opcua", status=0x80340000)
    run.told("opcua-1", at(9.9), at(12), ("pressure",))
    run.came("opcua", 12, 14)
    assert run.faults().get("inexact", 0) == 0


@pytest.mark.parametrize(
    ("count", "found"), [(20, {}), (19, {"inexact": 1}), (21, {"inexact": 1}), (0, {"inexact": 1})]
)
def test_a_hole_that_counts_counts_right(run: Run, count: int, found: dict[str, int]) -> None:
    """As many as are missing, no more and no fewer."""
    lost = run.sent("mqtt", 10, 12)
    run.told("mqtt-1", lost[0], lost[-1], cause="spool: full", count=count)
    run.came("mqtt", 12, 14)
    assert run.faults() == found


def test_two_holes_may_tell_of_one_loss(run: Run) -> None:
    """Where holes overlap, one that counts need not count what the other tells of."""
    lost = run.sent("mqtt", 10, 12)
    run.told("mqtt-1", lost[0], lost[9], cause="spool: full", count=10)
    run.told("mqtt-1", at(9.9), at(12), made=12)
    run.came("mqtt", 12, 14)
    assert run.faults() == {}
