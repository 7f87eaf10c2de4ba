"""Reads every file of an archive again: are they as the manifest says, and is each offset there once?"""

from collections.abc import Callable, Iterator
from hashlib import file_digest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from replay.archive import file as archive_file
from replay.archive.manifest import ArchiveError, File, Manifest, Range, digest, load

Counts = dict[int, NDArray[np.uint8]]


def problems(folder: Path, progress: Callable[[int, int], object] | None = None) -> Iterator[str]:
    """Everything that is wrong with an archive, in sentences; nothing where all is right.

    `progress(done, all)` is told files. Raises ArchiveError where there is no manifest to compare with.
    """
    manifest = load(folder)
    counts = {p: np.zeros(max(0, reached.next - reached.first), np.uint8) for p, reached in manifest.partitions.items()}
    for done, file in enumerate(manifest.files, 1):
        try:
            _look_at(folder, file, manifest, counts)
        except ArchiveError as error:
            yield str(error)
        if progress is not None:
            progress(done, len(manifest.files))
    for partition, count in counts.items():
        yield from _holes(partition, manifest.partitions[partition], count)
    named = {file.path for file in manifest.files}
    for path in sorted((folder / "raw").rglob("*.parquet")):
        if path.relative_to(folder).as_posix() not in named:
            yield f"{path.relative_to(folder)} is not in the manifest: left by a run that was killed"


def _look_at(folder: Path, file: File, manifest: Manifest, counts: Counts) -> None:
    """Count a file's offsets. Raises ArchiveError with what is wrong with it."""
    path = folder / file.path
    try:
        size = path.stat().st_size
        with path.open("rb") as opened:
            found_digest = file_digest(opened, digest).hexdigest()
    except OSError as error:
        raise ArchiveError(f"{file.path} cannot be read: {error.strerror}") from error
    if (size, found_digest) != (file.size_bytes, file.blake2b):
        raise ArchiveError(
            f"{file.path} is damaged: {size} bytes with digest {found_digest}, "
            f"the manifest says {file.size_bytes} with {file.blake2b}"
        )
    columns = archive_file.columns(folder, file, ("partition", "offset", "readings"))
    offsets = columns["offset"]
    found = (len(offsets), int(columns["readings"].sum()), int(offsets[0]), int(offsets[-1]))
    wanted = (file.records, file.readings, file.first_offset, file.last_offset)
    if found != wanted or (columns["partition"] != file.partition).any() or (np.diff(offsets) <= 0).any():
        raise ArchiveError(f"{file.path} has (records, readings, first, last) {found}, the manifest says {wanted}")
    reached = manifest.partitions[file.partition]
    if not reached.first <= found[2] <= found[3] < reached.next:
        raise ArchiveError(f"{file.path}: offsets outside of {reached.first} to {reached.next - 1}")
    counts[file.partition][offsets - reached.first] += 1


def _holes(partition: int, reached: Range, counts: NDArray[np.uint8]) -> Iterator[str]:
    for wrong, words in ((counts == 0, "are missing"), (counts > 1, "are there more than once")):
        edges = np.flatnonzero(np.diff(np.concatenate(([0], wrong.view(np.uint8), [0])).astype(np.int8)))
        for begin, end in edges.reshape(-1, 2):
            yield f"partition {partition}: offsets {reached.first + begin} to {reached.first + end - 1} {words}"
