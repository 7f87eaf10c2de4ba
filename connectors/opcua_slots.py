"""Numbers that outlive a kill -9, in two memory-mapped files of equal content. Pure storage.

Storing one is a store to memory, and the pages outlive the process. Each number stands beside its complement, so a
store that a kill cut in half, and damage to a file, are seen; then the other file has it.
"""

import contextlib
import mmap
import os
import struct
from collections.abc import Sequence
from pathlib import Path

UNKNOWN = -(2**63)
_PAIR = struct.Struct("<qq")


class Slots:
    """The numbers in `paths`, all of them UNKNOWN where no file has them."""

    def __init__(self, paths: Sequence[Path], count: int) -> None:
        self._maps: list[mmap.mmap] = []
        contents = [content for path in paths if len(content := _read(path)) == count * _PAIR.size]
        whole = b"".join(_pair(_number(contents, i)) for i in range(count))
        for path in paths:
            if _read(path) != whole:
                write(path, whole)
            with path.open("r+b") as file:
                self._maps.append(mmap.mmap(file.fileno(), 0))

    def __getitem__(self, index: int) -> int:
        return _number(self._maps, index)

    def __setitem__(self, index: int, number: int) -> None:
        for file in self._maps:
            _PAIR.pack_into(file, index * _PAIR.size, number, ~number)


def fill(paths: Sequence[Path], numbers: Sequence[int]) -> None:
    """Write files anew, with these numbers."""
    for path in paths:
        write(path, b"".join(map(_pair, numbers)))


def write(path: Path, content: bytes) -> None:
    """Write a file that only its owner can read, in one step."""
    partial = path.with_name(f"{path.name}.partial")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)


def _read(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""


def _pair(number: int) -> bytes:
    return _PAIR.pack(number, ~number)


def _number(contents: Sequence[bytes | mmap.mmap], index: int) -> int:
    for content in contents:
        number, complement = _PAIR.unpack_from(content, index * _PAIR.size)
        if number == ~complement:
            return int(number)
    return UNKNOWN
