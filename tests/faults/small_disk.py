"""A disk for Kafka that can be filled and freed: a small file system, or a limit on the size of the broker's files.

A file system of its own needs the right to mount one. Who has not got it lets the kernel refuse every write beyond a
size instead, which the broker meets at the same place, as an I/O error while it appends.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

SIZE_BYTES = 4 * 1024**3
#: What a full disk has left: less than the broker writes within a second or two.
LEFT_BYTES = 256 * 1024
ATTEMPTS = 100


@dataclass(slots=True)
class SmallDisk:
    """The disk under `folder`. `kind`: "tmpfs" or "limit"."""

    folder: Path
    kind: str

    def fill(self, pid: int) -> None:
        """Leave next to nothing for the process `pid`."""
        if self.kind == "tmpfs":
            # Refused where the broker has written more meanwhile.
            if not any(_resized(self.folder, _used_bytes(self.folder) + LEFT_BYTES) for _ in range(ATTEMPTS)):
                raise OSError(f"{self.folder} cannot be made smaller")
            return
        largest = max(path.stat().st_size for path in self.folder.rglob("*.log"))
        _, hard = psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE)
        psutil.Process(pid).rlimit(psutil.RLIMIT_FSIZE, (largest + LEFT_BYTES, hard))

    def free(self) -> None:
        """Make room again; the limit has ended with its process."""
        if self.kind == "tmpfs":
            _resized(self.folder, SIZE_BYTES)


def _used_bytes(folder: Path) -> int:
    room = os.statvfs(folder)
    return (room.f_blocks - room.f_bfree) * room.f_frsize


def _resized(folder: Path, size_bytes: int) -> bool:
    command = ["mount", "-o", f"remount,size={size_bytes}", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(folder: Path) -> Iterator[SmallDisk]:
    """`folder` on a small disk while the block runs; what is there then is gone with it."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    try:
        yield SmallDisk(folder, "tmpfs" if mounted else "limit")
    finally:
        if mounted:
            with suppress(OSError):
                subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
