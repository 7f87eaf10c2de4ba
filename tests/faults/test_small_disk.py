"""The small disk is full when it is told to be, or row 7 proves nothing."""

import errno
import os
import resource
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.faults.small_disk import LEFT_BYTES, SmallDisk, small_disk

#: Appends to a file until it may not, and says why not.
WRITER = """
import signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
file = open(sys.argv[1], "ab", buffering=0)
sys.stdin.readline()
try:
    for _ in range(64):
        file.write(bytes(65536))
except OSError as error:
    print(error.errno)
"""


def _refused(disk: SmallDisk, path: Path) -> int | None:
    """Which error meets a process that writes 4 MiB after the disk was filled."""
    writer = subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    disk.fill(writer.pid)
    answer = writer.communicate(b"\n")[0].strip()
    return int(answer) if answer else None


def test_a_full_disk_takes_no_more_until_it_is_freed(tmp_path: Path) -> None:
    """A process cannot append when the disk is full, whichever way it is made small, and the next one can."""
    with small_disk(tmp_path / "disk") as disk:
        log = disk.folder / "0.log"
        log.write_bytes(b"before")
        wanted = errno.ENOSPC if disk.kind == "tmpfs" else errno.EFBIG
        assert _refused(disk, log) == wanted
        assert log.stat().st_size <= len(b"before") + LEFT_BYTES + 65536
        disk.free()
        with log.open("ab") as file:
            file.write(bytes(4 * 2**20))
    assert not os.path.ismount(tmp_path / "disk")


def test_without_the_right_to_mount_the_size_of_files_is_limited(tmp_path: Path) -> None:
    """The other way holds for the process it was told of, and for nobody else."""
    (tmp_path / "0.log").write_bytes(b"before")
    before = psutil.Process().rlimit(resource.RLIMIT_FSIZE)
    assert _refused(SmallDisk(tmp_path, "limit"), tmp_path / "0.log") == errno.EFBIG
    assert psutil.Process().rlimit(resource.RLIMIT_FSIZE) == before


def test_nothing_is_left_mounted_after_a_failure(tmp_path: Path) -> None:
    """An exception in the block takes the file system away, too."""
    with pytest.raises(RuntimeError), small_disk(tmp_path / "disk"):
        raise RuntimeError
    assert not os.path.ismount(tmp_path / "disk")
