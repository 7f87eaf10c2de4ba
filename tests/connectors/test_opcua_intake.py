"""Which values have a gap frame before them, whatever their times do; and what is remembered of them."""

import asyncio
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from connectors.framer import Reading
from connectors.opcua_binary import Value
from connectors.opcua_intake import Intake
from connectors.opcua_memory import Memory
from connectors.opcua_outlet import GapNote
from tests.connectors.test_opcua_parts import ITEM

OVERFLOW = 0x480


class Kafka:
    """Stands for the outlet, and has confirmed at once. `times`: of the readings; `gaps`: from, to and cause."""

    def __init__(self) -> None:
        self.times: list[int] = []
        self.gaps: list[tuple[int, int, str]] = []

    async def write(self, readings: Iterable[Reading], gaps: Iterable[GapNote]) -> None:
        """Everything is there."""
        self.times += [reading.source_time_ns for reading in readings]
        self.gaps += [(note.gap.from_ns, note.gap.to_ns, note.gap.cause) for note in gaps]


def intake_at(directory: Path, kafka: Any) -> Intake:
    """The intake of a process that has just started, for one item without history."""

    async def recall(*_: object) -> None:
        raise AssertionError("this item has no history")

    memory = Memory(directory, "ua")
    memory.bind([ITEM])
    return Intake([ITEM], memory, kafka, recall)


def values(*times: int, status: int = 0) -> list[Value]:
    """A notification of values of these times; `status`: of the first."""
    return [Value(0, float(ns), None, 0 if i else status, ns, ns) for i, ns in enumerate(times)]


async def test_a_gap_does_not_wait_for_a_clock_that_went_back(tmp_path: Path) -> None:
    """After a device's clock went back, an overflow and a loss are told like at any other time, from value to value."""
    kafka = Kafka()
    intake = intake_at(tmp_path, kafka)
    await intake.take(values(1000))
    await intake.take(values(400, 410, status=OVERFLOW))
    assert kafka.gaps == [(400, 1000, "the server's queue overflowed")]
    await intake.take(values(450, status=OVERFLOW))
    intake.lost("notifications lost")
    await intake.take(values(500, 510))
    assert kafka.gaps[1:] == [(410, 450, "the server's queue overflowed"), (450, 500, "notifications lost")]


async def test_an_older_value_leaves_a_hole_open(tmp_path: Path) -> None:
    """A value that is older than the last one says nothing of what came after that: the hole ends at a newer one."""
    kafka = Kafka()
    intake = intake_at(tmp_path, kafka)
    await intake.take(values(1000))
    intake.lost("subscription lost")
    await intake.take(values(400))
    await intake.take(values(1050))
    await intake.take(values(1060))
    assert kafka.gaps == [(400, 1000, "subscription lost"), (400, 1050, "subscription lost")]


async def test_an_overflow_is_told_though_the_devices_clock_stands_still(tmp_path: Path) -> None:
    """Values of one and the same time may be lost, too; the gap has no length."""
    kafka = Kafka()
    intake = intake_at(tmp_path, kafka)
    await intake.take(values(1000))
    await intake.take([Value(0, 2.0, None, OVERFLOW, 1000, 1000)])
    assert kafka.gaps == [(1000, 1000, "the server's queue overflowed")]


async def test_a_notification_that_comes_again_is_no_gap(tmp_path: Path) -> None:
    """What a killed or cut connector had seen into Kafka and did not acknowledge comes again, out of a full queue that
    had overflowed: its gap is told once."""
    kafka = Kafka()
    intake = intake_at(tmp_path, kafka)
    notification = values(*range(200, 200 + ITEM.queue_size), status=OVERFLOW)
    await intake.take(values(100))
    await intake.take(notification, may_have_overflowed=True)
    told = [(100, 200, "the server's queue overflowed")]
    assert kafka.gaps == told
    for process in (intake, intake_at(tmp_path, kafka)):
        await process.take(notification, may_have_overflowed=True)
    for process in (intake, intake_at(tmp_path, kafka)):
        process.lost("subscription lost")
        await process.take(notification[-1:])  # the server has nothing newer
    await process.take(values(300))
    assert kafka.gaps == told


async def test_a_full_queue_that_says_it_overflowed_is_one_gap(tmp_path: Path) -> None:
    """Where the server sets the overflow bit as well, a full queue is not told a second time."""
    kafka = Kafka()
    intake = intake_at(tmp_path, kafka)
    await intake.take(values(100))
    await intake.take(values(*range(200, 200 + ITEM.queue_size), status=OVERFLOW), may_have_overflowed=True)
    assert kafka.gaps == [(100, 200, "the server's queue overflowed")]


async def test_a_stop_while_kafka_takes_a_notification_does_not_bring_it_again(tmp_path: Path) -> None:
    """What was under way when the connector was told to stop is remembered as taken, with its number: the next process
    does not ask for it."""
    going_on = asyncio.Event()

    class SlowKafka(Kafka):
        async def write(self, readings: Iterable[Reading], gaps: Iterable[GapNote]) -> None:
            await going_on.wait()
            await super().write(readings, gaps)

    kafka = SlowKafka()
    intake = intake_at(tmp_path, kafka)
    taking = asyncio.create_task(intake.take(values(100, 200), sequence=7))
    await asyncio.sleep(0)
    taking.cancel()
    going_on.set()
    await intake.settled()
    assert kafka.times == [100, 200]
    assert intake._memory.sequence == 7
