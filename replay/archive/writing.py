"""Writes raw records to an archive: Kafka's bytes as they are, in Parquet files by day and asset.

A partition is read in chunks of so many bytes. A chunk's files are written and synced, then the manifest that names
them: whoever is killed in between leaves files that no manifest names; the next one writes their records again, from
the same offset on. So each offset is in the archive once, whatever happens. A lock keeps it to one process at a time.
"""

import fcntl
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import NamedTuple

from confluent_kafka import TopicCollection
from confluent_kafka.admin import AdminClient

from replay.archive.file import Row, facts_of, write
from replay.archive.manifest import NAME, PARTIAL, ArchiveError, File, Manifest, Range, day_of, load, save, sync_folder
from replay.sources.records import Batches, RawRecord
from replay.sources.topic import LostRecords, Reader, Span, spans_of
from runtime.config import Kafka
from runtime.kafka import client_settings
from schemas.topics import RAW

LOCK = ".lock"
CHUNK_BYTES = 64 * 1024 * 1024
#: What a record costs in memory beside its bytes.
RECORD_BYTES = 500

Progress = Callable[[int, int], None]


class Added(NamedTuple):
    """What one run has added to an archive."""

    files: int = 0
    records: int = 0
    readings: int = 0
    size_bytes: int = 0

    def and_files(self, files: list[File]) -> "Added":
        """The same and these files."""
        return Added(
            self.files + len(files),
            self.records + sum(file.records for file in files),
            self.readings + sum(file.readings for file in files),
            self.size_bytes + sum(file.size_bytes for file in files),
        )


def unseen(_done: int, _all: int) -> None:
    """The progress that nobody looks at."""


def archive(
    kafka: Kafka,
    folder: Path,
    *,
    chunk_bytes: int = CHUNK_BYTES,
    progress: Progress = unseen,
) -> Added:
    """Archive every raw record behind what the archive has, up to the ends of the log as they are now.

    `chunk_bytes` bounds the memory and, from below, how many files there are. `progress(done, all)` is told records.
    Raises ArchiveError, LostRecords, KafkaException, OSError.
    """
    with _locked(folder):
        logs = spans_of(kafka, RAW.full_name(kafka.prefix))
        manifest = _going_on(kafka, folder, logs)
        spans = {p: (reached.next, logs[p][1]) for p, reached in manifest.partitions.items()}
        _sweep(folder, manifest)
        added, todo = Added(), sum(end - start for start, end in spans.values())
        with closing(Reader(kafka, partitions=1)) as reader:
            for partition, span in spans.items():
                for chunk in _chunks(reader.read(manifest.topic, {partition: span}), chunk_bytes):
                    files = _write_chunk(folder, chunk)
                    manifest = manifest.with_files(partition, chunk[-1].offset + 1, files)
                    save(folder, manifest)
                    added = added.and_files(files)
                    progress(added.records, todo)
    return added


def identity_of_topic(kafka: Kafka, topic: str) -> tuple[str, str]:
    """Kafka's ids of the cluster and of the topic. Raises KafkaException."""
    admin = AdminClient(client_settings(kafka))
    described = admin.describe_topics(TopicCollection([topic]), request_timeout=30)[topic].result()
    return str(admin.list_topics(topic, timeout=30).cluster_id), str(described.topic_id)


def refuse_other_topic(kafka: Kafka, folder: Path, manifest: Manifest) -> None:
    """Raise ArchiveError unless an archive is of this topic of this cluster."""
    topic = RAW.full_name(kafka.prefix)
    if manifest.topic != topic:
        raise ArchiveError(f"{folder} is an archive of {manifest.topic}, not of {topic}: use another folder")
    cluster_id, topic_id = identity_of_topic(kafka, topic)
    if cluster_id != manifest.cluster_id:
        raise ArchiveError(
            f"{folder} is of {topic} in cluster {manifest.cluster_id}, and this is cluster {cluster_id}: "
            "use another folder"
        )
    if topic_id != manifest.topic_id:
        raise ArchiveError(f"{topic} was made anew since {folder} was written: use another folder for the new topic")


def _going_on(kafka: Kafka, folder: Path, logs: Mapping[int, Span]) -> Manifest:
    """The manifest to go on behind: that of the folder, checked against the log, or a new one."""
    topic = RAW.full_name(kafka.prefix)
    if not (folder / NAME).exists():
        if (folder / "raw").exists():
            raise ArchiveError(f"{folder} has files but no {NAME}: put it back, or use another folder")
        cluster_id, topic_id = identity_of_topic(kafka, topic)
        begun = {p: Range(low, low) for p, (low, _) in logs.items()}
        manifest = Manifest(topic=topic, topic_id=topic_id, cluster_id=cluster_id, partitions=begun)
        save(folder, manifest)
        return manifest
    manifest = load(folder)
    refuse_other_topic(kafka, folder, manifest)
    if manifest.partitions.keys() != logs.keys():
        raise ArchiveError(
            f"{topic} has {len(logs)} partitions, {folder} {len(manifest.partitions)}: use another folder"
        )
    for partition, reached in manifest.partitions.items():
        low, high = logs[partition]
        if reached.next > high:
            raise ArchiveError(f"{topic}, partition {partition} ends at {high}, {folder} has {reached.next - 1}")
        if reached.next < low:
            raise LostRecords(
                f"{topic}, partition {partition}: offsets {reached.next} to {low - 1} were deleted before they were "
                f"archived (retention). {folder} stays as it is; use another folder for what is there from {low} on"
            )
    return manifest


def _sweep(folder: Path, manifest: Manifest) -> None:
    """Remove what a run that was killed has left: files behind the manifest's offsets, which are archived again now."""
    known = {file.path for file in manifest.files}
    for path in (folder / "raw").rglob(f"part-*{PARTIAL}"):
        path.unlink()
    for path in (folder / "raw").rglob("part-*.parquet"):
        _, partition, first, _ = path.stem.split("-")
        reached = manifest.partitions.get(int(partition))
        if path.relative_to(folder).as_posix() not in known and reached is not None and int(first) >= reached.next:
            path.unlink()


def _chunks(batches: Batches, chunk_bytes: int) -> Iterator[list[RawRecord]]:
    """The records of a span, so many bytes at a time."""
    chunk: list[RawRecord] = []
    size = 0
    for batch in batches:
        for record in batch:
            chunk.append(record)
            size += len(record.key or b"") + len(record.value or b"") + RECORD_BYTES
            if size >= chunk_bytes:
                yield chunk
                chunk, size = [], 0
    if chunk:
        yield chunk


def _write_chunk(folder: Path, chunk: list[RawRecord]) -> list[File]:
    groups: dict[tuple[str, str | None], list[Row]] = {}
    for record in chunk:
        facts = facts_of(record)
        groups.setdefault((day_of(record.time_ms), facts.asset), []).append((record, facts))
    files = [write(folder, rows) for rows in groups.values()]
    days = {(folder / file.path).parent.parent for file in files}
    for made in {(folder / file.path).parent for file in files} | days | {folder / "raw", folder}:
        sync_folder(made)
    return files


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LOCK).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ArchiveError(f"{folder}: another process is writing to it") from error
        yield
