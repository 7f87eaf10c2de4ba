"""A run in topics, brought into a folder: the same tables, so that whatever reads runs reads these too.

What comes twice (agents send again after a restart) counts once. A joined frame's readings have the identity of its
last frame here, since its estimates do not say which frame each came in. May not know: what the tables are for.
"""

from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import TypeVar

import orjson

from replay.results.finished import ResultError
from replay.results.provenance import FILE, runs_topic
from replay.results.run_record import newest
from replay.results.tables import Folder
from replay.results.writers import run_kafka
from replay.sources.raw import Raw
from replay.sources.span import SpanError
from replay.sources.topic import Reader, Span
from runtime.config import Kafka
from schemas.codec import DecodeError, decode_as
from schemas.frames import EstimateFrame, Identity
from schemas.records import TwinState
from schemas.topics import ESTIMATES, STATE

#: The name by which the live system's own topics are asked for.
LIVE = "live"

T = TypeVar("T", EstimateFrame, TwinState)


def fetch(kafka: Kafka, run: str, folder: Path) -> Path:
    """The topics of a run (LIVE: those of the live system) as a folder of Parquet files in `folder`. Raises
    ResultError, KafkaException, SourceError.
    """
    of_run = kafka if run == LIVE else run_kafka(kafka, run)
    path = folder / run
    with closing(Reader(kafka, partitions=1)) as reader:
        try:
            spans = [reader.spans(topic.full_name(of_run.prefix)) for topic in (ESTIMATES, STATE)]
        except SpanError as error:
            raise ResultError(f"run {run!r}: {error}; there is no folder of this name either") from error
        said = _provenance(reader, kafka, run)
        for partition in spans[0]:
            estimates, states = ({partition: one.get(partition, (0, 0))} for one in spans)
            out = Folder(path, partition)
            for frame in _once(reader, ESTIMATES.full_name(of_run.prefix), estimates, EstimateFrame):
                out.readings(frame, [Raw(ESTIMATES.name, partition, 0, b"", frame)])
            for state in _once(reader, STATE.full_name(of_run.prefix), states, TwinState):
                out.state(state)
            out.close()
    (path / FILE).write_bytes(said)
    return path


def _provenance(reader: Reader, kafka: Kafka, run: str) -> bytes:
    """The record of a run, which is published when it has ended. What runs live has none. Raises as `fetch`."""
    if run == LIVE:
        return orjson.dumps({"run": LIVE})
    said = newest(reader, kafka, run)
    if said is None:
        raise ResultError(
            f"run {run!r}: {runs_topic(kafka.configured_prefix)} has no record of it, which is written last: it did "
            "not end; replay it again under a new name"
        )
    return said


def _once(reader: Reader, topic: str, spans: Mapping[int, Span], kind: type[T]) -> Iterator[T]:
    """Records of a topic, each identity the first time it comes."""
    seen: set[Identity] = set()
    for raw in (one for batch in reader.read(topic, spans) for one in batch):
        try:
            record = decode_as(raw.value or b"", kind)
        except DecodeError as error:
            raise ResultError(f"{topic}/{raw.partition} at offset {raw.offset}: {error}") from error
        if record.identity not in seen:
            seen.add(record.identity)
            yield record
