"""A run in topics, brought into a folder: the same tables, so that whatever reads runs reads these too.

What comes twice (agents send again after a restart) counts once. A joined frame's readings have the identity of its
last frame here, since its estimates do not say which frame each came in. May not know: what the tables are for.
"""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TypeVar

from confluent_kafka import Consumer

from replay.provenance import FILE, runs_topic
from replay.raw import Raw
from replay.results import ResultError
from replay.source import TopicSource
from replay.span import SpanError, bounds_of, reader_settings
from replay.tables import Folder
from replay.writers import run_kafka
from runtime.config import Kafka
from schemas.codec import DecodeError, decode_as
from schemas.frames import EstimateFrame, Identity
from schemas.records import TwinState
from schemas.topics import ESTIMATES, STATE, Topic

#: The name by which the live system's own topics are asked for.
LIVE = "live"

T = TypeVar("T", EstimateFrame, TwinState)


def fetch(kafka: Kafka, run: str, folder: Path) -> Path:
    """The topics of a run (LIVE: those of the live system) as a folder of Parquet files in `folder`. Raises
    ResultError, KafkaException, SourceError.
    """
    of_run = kafka if run == LIVE else run_kafka(kafka, run)
    path = folder / run
    try:
        bounds = _bounds(of_run, ESTIMATES.full_name(of_run.prefix))
        states = _bounds(of_run, STATE.full_name(of_run.prefix))
    except SpanError as error:
        raise ResultError(f"run {run!r}: {error}; there is no folder of this name either") from error
    for partition in bounds:
        _partition(of_run, path, partition, bounds[partition], states.get(partition, (0, 0)))
    said = None if run == LIVE else _provenance(kafka, run)
    if said is not None:
        (path / FILE).write_bytes(said)
    return path


def _partition(kafka: Kafka, path: Path, number: int, estimates: tuple[int, int], states: tuple[int, int]) -> None:
    out = Folder(path, number)
    for frame in _once(kafka, ESTIMATES, number, estimates, EstimateFrame):
        out.readings(frame, [Raw(ESTIMATES.name, number, 0, b"", frame)])
    for state in _once(kafka, STATE, number, states, TwinState):
        out.state(state)
    out.close()


def _once(kafka: Kafka, topic: Topic, partition: int, bounds: tuple[int, int], kind: type[T]) -> Iterator[T]:
    """Records of a partition, each identity the first time it comes."""
    seen: set[Identity] = set()
    name = topic.full_name(kafka.prefix)
    with closing(TopicSource(kafka, name)) as source:
        for batch in source.read(partition, *bounds):
            for raw in batch:
                try:
                    record = decode_as(raw.value or b"", kind)
                except DecodeError as error:
                    raise ResultError(f"{name}/{partition} at offset {raw.offset}: {error}") from error
                if record.identity not in seen:
                    seen.add(record.identity)
                    yield record


def _provenance(kafka: Kafka, run: str) -> bytes | None:
    """What the topic of runs says of a run: its last record; None where it says nothing."""
    name = runs_topic(kafka.prefix)
    try:
        bounds = _bounds(kafka, name)
    except SpanError:
        return None
    found = None
    with closing(TopicSource(kafka, name)) as source:
        for partition, (low, high) in bounds.items():
            for batch in source.read(partition, low, high):
                for raw in batch:
                    found = raw.value if raw.key == run.encode() else found
    return found


def _bounds(kafka: Kafka, topic: str) -> dict[int, tuple[int, int]]:
    with closing(Consumer(reader_settings(kafka))) as consumer:
        return bounds_of(consumer, kafka, topic)
