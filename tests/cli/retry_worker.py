"""`twin rejected retry --all` that kills itself: python -m tests.cli.retry_worker CONFIG FAIL_POINT.

FAIL_POINT: the name at which it gets SIGKILL.
"""

import os
import signal
import sys
from pathlib import Path

from cli.rejected_log import RejectedLog
from cli.retry import Retry
from runtime.load import load


def main() -> None:
    """See the module's docstring."""
    plant = load(Path(sys.argv[1]))

    def fail(name: str) -> None:
        if name == sys.argv[2]:
            os.kill(os.getpid(), signal.SIGKILL)

    log = RejectedLog(plant.kafka)
    log.update()
    for outcome in Retry(plant, log, fail).run([e.place for e in log.entries.values() if e.is_open]):
        print(outcome)


if __name__ == "__main__":
    main()
