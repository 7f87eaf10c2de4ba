"""Versions of corrected points: each correction is a run whose name says which version it is."""

import re

_NAME = re.compile(r"corrected-([1-9][0-9]{0,8})")


def corrected_run(version: int) -> str:
    """The run of a version, from 1 on."""
    return f"corrected-{version}"


def version_of(run: str) -> int:
    """The version that a run's name says; 0 where it is no correction."""
    match = _NAME.fullmatch(run)
    return 0 if match is None else int(match[1])
