"""A small run of the whole flow, made without connectors and agents: a journal, and the records and points of it.

Everything is built in memory, may be damaged, and is then written to a real Kafka and a real InfluxDB.
"""

import asyncio
import struct
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from confluent_kafka import Producer

from agents.settings import kernel_settings
from audit.check import Report, check
from audit.expected import load
from audit.kafka import Cluster
from audit.store import Database
from kernels.stages import STAGES
from runtime.config import Influxdb, Kafka, Plant
from runtime.kafka import client_settings, create_topics
from runtime.partitions import home_partition
from schemas.codec import DecodeError, decode, encode
from schemas.frames import Frame, Gap, columns_of, empty_columns
from schemas.records import Rejected
from schemas.topics import ALERTS, CHANGELOGS, ESTIMATES, RAW, REJECTED, STATE, VALIDATED
from services.influxdb import InfluxDB
from store.influx_writer import InfluxWriter
from store.record_lines import lines_of
from tests.faults.fold import fold

PARTITIONS = 3
START_NS = 1_760_000_000_000_000_000
TAGS = ("temperature", "pressure")
UNITS = ("degC", "MPa")
READINGS_PER_FRAME = 4
SECOND_NS = 1_000_000_000
ROW = struct.Struct("<q")
STORED = (ESTIMATES, STATE, ALERTS)
OUTPUTS = {"validation": VALIDATED, "estimation": ESTIMATES, "twin": STATE}


@dataclass(eq=False)
class Record:
    """A record on its way. `source`: of a changelog's row, the record it has applied last."""

    topic: str
    key: bytes
    value: bytes
    partition: int
    source: "Record | None" = None
    shift: int = 0
    offset: int = -1

    def data(self) -> bytes:
        """The bytes as they are written."""
        return self.value if self.source is None else ROW.pack(self.source.offset ^ self.shift) + self.value


@dataclass
class Flow:
    """A journal of two assets, their raw frames, and after `run` all that comes of them."""

    name: str
    lines: list[dict[str, Any]] = field(default_factory=list)
    frames: list[Frame] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    points: list[str] | None = None  # None: what the sink makes of the records
    wrong_partition: set[int] = field(default_factory=set)  # index of frames that are written to a wrong one

    def assets(self) -> tuple[str, str]:
        """Two assets."""
        return f"{self.name}-A", f"{self.name}-B"

    def fill(self, frames: int = 12) -> None:
        """Frames of both assets: two tags, two readings each, a reading per 100 ms."""
        rng = np.random.default_rng(3)
        for n in range(frames):
            for asset in self.assets():
                rows = range(READINGS_PER_FRAME)
                times = [START_NS + (n * READINGS_PER_FRAME + row) * 100_000_000 for row in rows]
                values = [float(v) for v in rng.normal(1.0, 0.01, READINGS_PER_FRAME)]
                values = [v * (85.0 if row % 2 == 0 else 2.5) for row, v in enumerate(values)]
                self.frames.append(self.frame(asset, n, times, values))
                for row in rows:
                    self.line(asset, TAGS[row % 2], times[row], values[row])

    def line(self, asset: str, tag: str, time_ns: int, value: float | None, **changes: Any) -> None:
        """A line of the journal."""
        plain = {
            "asset": asset, "tag": tag, "protocol": "mqtt", "source_time_ns": time_ns,
            "value": None if value is None else value.hex(), "text": None, "unit": UNITS[TAGS.index(tag)],
            "fault": None, "truth": None, "sent_ns": time_ns + 1_000_000, "repeat": False,
        }  # fmt: skip
        self.lines.append(plain | changes)

    def frame(self, asset: str, seq: int, times: list[int], values: list[float], **changes: Any) -> Frame:
        """A raw frame with readings of the tags by turns."""
        n = len(times)
        arrays = {
            "tag": np.arange(n) % 2, "source_time_ns": times, "server_time_ns": np.zeros(n),
            "arrival_time_ns": np.array(times, np.int64) + 2_000_000, "value": values, "status": np.zeros(n),
            "mark": np.zeros(n),
        }  # fmt: skip
        columns = {name: np.array(arrays[name], dtype) for name, dtype in columns_of(Frame).items()}
        plain: dict[str, Any] = {"source": "mqtt-1", "epoch": START_NS, "time_ns": (times or [START_NS])[-1]}
        return Frame(asset=asset, seq=seq, tags=TAGS, units=UNITS, **(plain | columns | changes))

    def without_readings(self, asset: str, seq: int, gap: Gap | None = None, tags: tuple[str, ...] = ()) -> Frame:
        """A heartbeat, or a gap frame."""
        return Frame(
            asset=asset, source="mqtt-1", epoch=START_NS, seq=seq, kind="gap" if gap else "heartbeat", gap=gap,
            time_ns=START_NS, tags=tags, units=("",) * len(tags), **empty_columns(Frame),
        )  # fmt: skip

    def run(self) -> None:
        """Make the records and points that the frames lead to."""
        states: dict[tuple[str, str], Any] = {}
        applied: dict[tuple[str, str], Record] = {}
        for index, frame in enumerate(self.frames):
            key = frame.asset.encode()
            partition = home_partition(key, PARTITIONS)
            made = self.add(RAW.name, key, encode(frame), (partition + (index in self.wrong_partition)) % PARTITIONS)
            if index in self.wrong_partition:
                self.reject(made)
                continue
            current: Any = frame
            for name, (stage, params) in _stages().items():
                state = states.get((name, frame.asset)) or stage.initial(frame.asset)
                new, out, _ = stage.step(state, current, params)
                if out is None:
                    break
                states[name, frame.asset], applied[name, frame.asset] = new, made
                made = self.add(OUTPUTS[name].name, key, encode(out), partition)
                current = out
        for (name, asset), state in states.items():
            key = asset.encode()
            row = self.add(f"changelog.{name}", key, encode(state), home_partition(key, PARTITIONS))
            row.source = applied[name, asset]

    def add(self, topic: str, key: bytes, value: bytes, partition: int) -> Record:
        """One more record."""
        record = Record(topic, key, value, partition)
        self.records.append(record)
        return record

    def reject(self, record: Record) -> None:
        """Validation says that it cannot use a record; its position is known when it is written."""
        rejected = self.add(REJECTED.name, record.key, b"", record.partition)
        rejected.source = record

    def stored(self) -> list[str]:
        """The points that the sink makes of the records."""
        lines = []
        for record in self.records:
            if record.topic in {topic.name for topic in STORED}:
                with suppress(DecodeError):
                    lines += lines_of(decode(record.value))[0]
        return lines

    def of(self, topic: str, asset: str | None = None) -> list[Record]:
        """The records of a topic and asset."""
        return [r for r in self.records if r.topic == topic and asset in (None, r.key.decode())]


@cache
def _stages() -> dict[str, tuple[Any, Any]]:
    """Every stage with its params, made once: they remember what they have worked out per tag."""
    settings = kernel_settings(Plant())
    return {name: (stage, params_from(settings)) for name, (stage, params_from) in STAGES.items()}


def _rejected(record: Record, names: dict[str, str]) -> bytes:
    if record.source is None:
        return record.value
    refused = record.source
    return encode(
        Rejected(stage="validation", reason="body is cut short at byte 17", topic=names[refused.topic],
                 partition=refused.partition, offset=refused.offset, payload=refused.value)
    )  # fmt: skip


async def store(lines: list[str], influx: InfluxDB, token: Path) -> None:
    """Write lines to InfluxDB, with its token in a file."""

    async def fail(sentence: str) -> None:
        raise AssertionError(sentence)

    writer = InfluxWriter(Influxdb(url=influx.url, org=influx.org, bucket=influx.bucket, token_file=token), 10.0, fail)
    assert await writer.write(lines) == []
    await writer.close()


def flipped(data: bytes, at: int, bit: int = 0) -> bytes:
    """The bytes with one bit the other way."""
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


@dataclass
class Written:
    """Flows that were written under one prefix."""

    plant: Plant
    database: Database
    journal: Path

    def check(self, *, expected: bool) -> Report:
        """What the checker finds; `expected`: with a fold of raw to compare with."""
        path = self.journal.with_name("expected.json")
        if expected:
            fold(self.plant, path)
        kafka = self.plant.kafka
        return check(
            [self.journal], Cluster(bootstrap=kafka.address, prefix=kafka.prefix), self.database,
            load(path) if expected else None, patience_s=0, quiet_s=0, example_count=100,
        )  # fmt: skip


def write(flows: Sequence[Flow], prefix: str, bootstrap: str, influx: InfluxDB, folder: Path) -> Written:
    """Write everything to Kafka, InfluxDB and a journal."""
    kafka = Kafka(bootstrap=bootstrap, prefix=prefix, partitions=PARTITIONS)
    create_topics(kafka)
    names = {
        **{t.name: t.full_name(prefix) for t in (RAW, VALIDATED, ESTIMATES, STATE, ALERTS, REJECTED)},
        **{f"changelog.{t.name}": t.full_name(prefix) for t in CHANGELOGS},
    }
    records = [record for flow in flows for record in flow.records]
    ends: dict[tuple[str, int], int] = {}
    for record in records:
        record.offset = ends.get((record.topic, record.partition), 0)
        ends[record.topic, record.partition] = record.offset + 1
    producer = Producer({**client_settings(kafka), "enable.idempotence": True, "linger.ms": 2})
    for record in records:
        data = _rejected(record, names) if record.topic == REJECTED.name else record.data()
        producer.produce(names[record.topic], data, record.key, record.partition)
    assert producer.flush(30) == 0
    token, journal = folder / "token", folder / "journal.jsonl"
    token.write_text(influx.token)
    points = [line for flow in flows for line in (flow.stored() if flow.points is None else flow.points)]
    asyncio.run(store(points, influx, token))
    journal.write_bytes(b"".join(orjson.dumps(line) + b"\n" for flow in flows for line in flow.lines))
    return Written(Plant(kafka=kafka), Database(url=influx.url, bucket=influx.bucket, token=influx.token), journal)
