"""Compiled and plain loops give the same bits."""

import os
import subprocess
import sys
from pathlib import Path

from tests.kernels.estimation_digest import digest

ROOT = Path(__file__).parents[2]


def test_jit_on_and_off_agree_to_the_bit() -> None:
    """Estimation and twin of 1,200 readings with both models: the same digest with NUMBA_DISABLE_JIT=1."""
    plain = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.kernels.estimation_digest"],
        env={**os.environ, "NUMBA_DISABLE_JIT": "1"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        timeout=200,
    )
    assert plain.stdout.strip() == digest()
