"""The live table of the demo: raw against estimate against truth, the twin, and the processes.

Reads the topics without a consumer group of its own kind in the system, and the plant's journal for the truth.
"""

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from rich.console import Group
from rich.table import Column, Table
from rich.text import Text

from cli.common import cells
from cli.lag import Row
from runtime.config import Kafka
from runtime.kafka import client_settings, watermarks
from schemas.codec import DecodeError, decode
from schemas.frames import EstimateFrame
from schemas.quality import grade
from schemas.records import TwinState
from schemas.topics import ESTIMATES, STATE

COLOURS = {"GOOD": "green", "UNCERTAIN": "yellow", "BAD": "red"}


@dataclass
class Newest:
    """The newest reading of one tag."""

    raw: float | str
    estimate: float
    std: float
    flag: int
    unit: str


@dataclass
class Seen:
    """What the table shows; written by the reading thread, read by the drawing one."""

    tags: dict[tuple[str, str], Newest] = field(default_factory=dict)
    states: dict[str, TwinState] = field(default_factory=dict)
    truth: dict[tuple[str, str], float] = field(default_factory=dict)
    grades: dict[str, int] = field(default_factory=lambda: dict.fromkeys(COLOURS, 0))


class Reader(threading.Thread):
    """Follows estimates, state and the journal until `stop`."""

    def __init__(self, kafka: Kafka, journal: Path) -> None:
        super().__init__(name="live table", daemon=True)
        self.seen = Seen()
        self._done = threading.Event()
        self._journal = journal
        self._journal_position = 0
        self._consumer = Consumer({**client_settings(kafka), "group.id": "twin-live", "enable.auto.commit": False})
        topics = [t.full_name(kafka.prefix) for t in (ESTIMATES, STATE)]
        self._consumer.assign(
            [TopicPartition(t, p, watermarks(self._consumer, t, p)[1]) for t in topics for p in range(kafka.partitions)]
        )

    def run(self) -> None:
        """Take in what comes."""
        while not self._done.is_set():
            for message in self._consumer.consume(200, 0.2):
                if message.error() is None:
                    self._take(message.value())
            self._follow_journal()
        self._consumer.close()

    def stop(self) -> None:
        """End the thread and wait for it."""
        self._done.set()
        self.join()

    def _take(self, data: bytes) -> None:
        try:
            record = decode(data)
        except DecodeError:  # the audit counts it; the table only shows
            return
        if isinstance(record, TwinState):
            self.seen.states[record.asset] = record
        elif isinstance(record, EstimateFrame):
            self._take_frame(record)

    def _take_frame(self, frame: EstimateFrame) -> None:
        for row in range(len(frame)):
            tag, flag = int(frame.tag[row]), int(frame.flag[row])
            raw = frame.texts.get(row, float(frame.value[row]))
            self.seen.tags[frame.asset, frame.tags[tag]] = Newest(
                raw, float(frame.estimate[row]), float(frame.std[row]), flag, frame.units[tag]
            )
            self.seen.grades[grade(flag)] += 1

    def _follow_journal(self) -> None:
        if not self._journal.exists():
            return
        with self._journal.open("rb") as file:
            file.seek(self._journal_position)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._journal_position += len(line)
                entry = json.loads(line)
                if entry.get("truth") is not None:
                    self.seen.truth[entry["asset"], entry["tag"]] = entry["truth"]


def view(seen: Seen, processes: list[Row], headline: str) -> Group:
    """Everything at one moment."""
    return Group(Text(headline, style="bold"), _readings(seen), _twins(seen), _processes(processes))


def _readings(seen: Seen) -> Table:
    table = Table(
        "asset", Column("tag", no_wrap=True), "unit", "raw", "estimate", "± std", "truth", "quality", title="readings"
    )
    for (asset, tag), newest in sorted(seen.tags.items()):
        shown = newest.raw if isinstance(newest.raw, str) else f"{newest.raw:.3f}"
        truth = seen.truth.get((asset, tag))
        colour = COLOURS[grade(newest.flag)]
        table.add_row(
            *cells(asset, tag, newest.unit, shown), f"{newest.estimate:.3f}", f"{newest.std:.3f}",
            "–" if truth is None else f"{truth:.3f}", Text(grade(newest.flag), style=colour),
        )  # fmt: skip
    return table


def _twins(seen: Seen) -> Table:
    table = Table("asset", "model", "states", "in 60 s", "coverage", "latency ms", title="twins")
    for asset, state in sorted(seen.states.items()):
        table.add_row(
            *cells(asset, state.model),
            _numbers(state.model_states),
            _numbers(state.prediction),
            "–" if state.coverage is None else f"{state.coverage:.0%}",
            "–" if state.latency_ms is None else f"{state.latency_ms:.0f}",
        )
    return table


def _numbers(values: dict[str, float]) -> str:
    return "  ".join(f"{name} {value:.5g}" for name, value in sorted(values.items()))


def _processes(rows: list[Row]) -> Table:
    table = Table(Column("process", no_wrap=True), "state", "CPU %", "lag frames", "readings/s", title="processes")
    for row in rows:
        lag = "–" if row.lag_frames is None else str(row.lag_frames)
        rate = "–" if row.readings_per_s is None else f"{row.readings_per_s:.0f}"
        table.add_row(row.name, row.state, f"{row.cpu_percent:.1f}", lag, rate)
    return table
