"""Compiled or not, the same bits."""

import os
import subprocess
import sys
from pathlib import Path

from kernels.stages import STAGES

MODULE = "tests.kernels.digest_of_stages"


def digests(jit_off: str) -> dict[str, str]:
    """Stage by stage, what the script prints in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", MODULE],
        env={**os.environ, "NUMBA_DISABLE_JIT": jit_off},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(line.split() for line in done.stdout.splitlines())


def test_compiled_and_plain_loops_give_the_same_bits() -> None:
    """Every stage's outputs and state over odd sequences have the same digest with NUMBA_DISABLE_JIT=1 and without."""
    plain, compiled = digests("1"), digests("0")
    assert plain.keys() == STAGES.keys()
    assert plain == compiled
