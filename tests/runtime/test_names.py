"""Names from the field in logs: an attacker's tag name stays text."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FORGED = "2026-01-01T00:00:00.000Z CRITICAL twin root: forged"
PROGRAM = """
import logging, sys
from runtime.logs import configure
configure("test")
log = logging.getLogger("x")
log.warning("tag %s is bad", sys.argv[1])
try:
    raise ValueError(sys.argv[1])
except ValueError:
    log.exception("it failed")
"""


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (f"a\n{FORGED}", f"a\\n{FORGED}"),
        (f"a\r{FORGED}", f"a\\r{FORGED}"),
        (f"a\x85{FORGED}", f"a\\x85{FORGED}"),
        (f"a\u2028{FORGED}", f"a\\u2028{FORGED}"),
        ("a\x1b[2J\x1b]0;title\x07", "a\\x1b[2J\\x1b]0;title\\x07"),
        ("a\u202eb", "a\\u202eb"),
        ("Füllstand 🌡", "Füllstand 🌡"),
    ],
)
def test_a_name_never_makes_a_line_of_its_own(name: str, shown: str) -> None:
    """A name with line breaks, terminal sequences or reversed text is one line of the log, with escapes; a traceback
    that repeats it is marked line by line, so no line can be taken for an event."""
    written = subprocess.run(
        [sys.executable, "-c", PROGRAM, name], cwd=ROOT, capture_output=True, check=True
    ).stderr.decode()
    lines = written.splitlines()
    assert f"WARNING test x: tag {shown} is bad" in lines[0]
    assert "ERROR   test x: it failed" in lines[1]
    assert all(line.startswith("  | ") for line in lines[2:])
    assert all(line.isprintable() for line in lines)
    assert not any(line.startswith(FORGED) for line in lines)
