"""The command line as a user runs it, and a running system to use it on."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent


def twin(
    *arguments: str, env: dict[str, str] | None = None, timeout_s: float = 300
) -> subprocess.CompletedProcess[str]:
    """Run the command line and wait for it."""
    return subprocess.run(
        [sys.executable, "-m", "cli.main", *arguments],
        env={**os.environ, **(env or {})},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


@dataclass(frozen=True)
class System:
    """A running system: its folder, its configuration and the addresses that `twin env` prints."""

    run_dir: Path
    config: Path
    env: dict[str, str]

    def twin(
        self, *arguments: str, env: dict[str, str] | None = None, timeout_s: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on this system."""
        settings = {"TWIN_RUN_DIR": str(self.run_dir), "TWIN_CONFIG": str(self.config), **(env or {})}
        return twin(*arguments, env=settings, timeout_s=timeout_s)
