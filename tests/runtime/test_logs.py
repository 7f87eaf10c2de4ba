"""Logs stay readable while a dependency is away."""

import logging

import pytest

from runtime import logs


def _written(texts: list[tuple[float, str]]) -> list[str]:
    """What passes of (time in s, text)."""
    thinned, passed = logs.Thinned(), []
    for created_s, text in texts:
        record = logging.LogRecord("aiokafka", logging.ERROR, "", 0, "%s", (text,), None)
        record.created = created_s
        if thinned.filter(record):
            passed.append(record.getMessage())
    return passed


def test_the_same_line_is_written_a_few_times_only() -> None:
    """Of 100 equal lines in a second five are written; the first one later says how many were left out."""
    away = [(n / 100, "cannot connect") for n in range(100)]
    assert _written([*away, (11.0, "cannot connect")]) == [
        *["cannot connect"] * 5,
        "cannot connect (95 lines like this were left out)",
    ]


def test_other_lines_pass() -> None:
    """A line that has not been written yet is never left out, whatever else floods the log."""
    flood = [(n / 1000, "cannot connect") for n in range(900)]
    assert "stopping" in _written([*flood, (0.95, "stopping")])


def test_what_is_remembered_is_bounded() -> None:
    """Lines that never repeat are all written and do not fill the memory."""
    thinned = logs.Thinned()
    for n in range(5000):
        assert thinned.filter(logging.LogRecord("x", logging.ERROR, "", 0, "%d", (n,), None))
    assert len(thinned._seen) <= 1001


def test_a_process_logs_through_it(capfd: pytest.CaptureFixture[str]) -> None:
    """`configure` thins what reaches standard error."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    try:
        logs.configure("test")
        for _ in range(20):
            logging.getLogger("aiokafka").error("away")
        assert capfd.readouterr().err.count("away") == logs.SAME_MAX
    finally:
        root.handlers[:] = before
        root.setLevel(level)
