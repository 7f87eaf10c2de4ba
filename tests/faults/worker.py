"""An agent as `twin agent STAGE` runs it, which kills itself with -9 at a point where a file asks it to.

FAIL_FILE names the file; it holds the name of a fail point (see `agents.fold.Fold` and `agents.stage.run_tableless`).
The file is removed right before the blow, so it strikes once and whoever wrote it sees that it did.
"""

import os
import signal
import sys
from importlib import import_module
from pathlib import Path

from cli.common import configuration
from runtime import logs


def fail_point(name: str) -> None:
    """Die here where that is wanted."""
    file = Path(os.environ["FAIL_FILE"])
    if file.exists() and file.read_text("utf-8") == name:
        file.unlink()
        os.kill(os.getpid(), signal.SIGKILL)


def main() -> int:
    """Run the stage of the command line."""
    stage = sys.argv[1]
    plant = configuration(Path(os.environ["TWIN_CONFIG"]), stage)
    logs.configure(stage)
    code: int = import_module(f"agents.{stage}").run(plant, fail_point=fail_point)
    return code


if __name__ == "__main__":
    sys.exit(main())
