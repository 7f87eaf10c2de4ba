"""Archives again and again, each time into another folder, and is really killed at another moment each time.

usage: python -m tests.replay.archive_worker BOOTSTRAP PREFIX FOLDER [FIRST STEP]

Moments are before and after every fsync and every renaming. Without FIRST, archives without being killed into every
folder that there is. Every archiving is a process of its own, forked before this one has any thread.
"""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from replay.archive.writing import archive
from runtime.config import Kafka

CHUNK_BYTES = 7000


class Countdown:
    """Kills this process at the n-th moment."""

    def __init__(self, moments: int) -> None:
        self._left = moments

    def around(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """The same call, with a moment before and one after it."""

        def counted(*arguments: Any) -> Any:
            self._moment()
            result = call(*arguments)
            self._moment()
            return result

        return counted

    def _moment(self) -> None:
        self._left -= 1
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)


def archived(kafka: Kafka, folder: Path, kill_at: int | None) -> int:
    """Archive in a process of its own; its wait status."""
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1]
    if kill_at is not None:
        countdown = Countdown(kill_at)
        os.fsync = countdown.around(os.fsync)
        Path.replace = countdown.around(Path.replace)  # type: ignore[method-assign]
    archive(kafka, folder, chunk_bytes=CHUNK_BYTES)
    os._exit(0)


def main() -> None:
    """Kill at FIRST, FIRST + STEP, … until one comes to its end; or complete all."""
    bootstrap, prefix, root = sys.argv[1], sys.argv[2], Path(sys.argv[3])
    kafka = Kafka(bootstrap=bootstrap, prefix=prefix, partitions=2)
    if len(sys.argv) == 4:
        assert all(archived(kafka, folder, None) == 0 for folder in root.iterdir())
        return
    moment, step = int(sys.argv[4]), int(sys.argv[5])
    while status := archived(kafka, root / str(moment), moment):
        assert os.WIFSIGNALED(status), f"ended with {status} at moment {moment}"
        moment += step


if __name__ == "__main__":
    main()
