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


MODULE_TEXT = "from kernels.jit import jit\n\n\n@jit\ndef double(x):\n    return 2.0 * x\n"
PROGRAM = "import loops; print(loops.double(21.0), sum(loops.double.stats.cache_hits.values()))"


def doubled(folder: Path) -> str:
    """What a process of its own computes, and whether it found the compiled code on disk."""
    path = os.pathsep.join([str(folder), str(Path(__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": path, "NUMBA_DISABLE_JIT": "0"}
    command = [sys.executable, "-c", PROGRAM]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.stdout.strip() or done.stderr


def test_damaged_compiled_code_is_made_anew(tmp_path: Path) -> None:
    """Whatever happened to a file of compiled loops, the next process computes the same and leaves a whole one."""
    (tmp_path / "loops.py").write_text(MODULE_TEXT)
    assert doubled(tmp_path) == "42.0 0"
    for pattern in ("*.nbi", "*.nbc"):
        for damage in (lambda data: data[: len(data) // 2], flipped):
            [file] = (tmp_path / "__pycache__").glob(pattern)
            file.write_bytes(damage(file.read_bytes()))
            assert doubled(tmp_path) == "42.0 0"
    assert doubled(tmp_path) == "42.0 1"


def flipped(data: bytes) -> bytes:
    """One bit in the middle turned over."""
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
