"""Releases to come: copies of this project whose frames and states have one field more, as processes of their own."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

SCHEMAS = ("raw_frame", "validated_frame", "estimate_frame", "stage_state")
FIELD = {"name": "note", "type": "string", "default": "", "doc": "of a release to come"}
LEFT_OUT = (
    ".git",
    ".venv",
    ".twin",
    ".fuzz",
    ".hypothesis",
    ".mypy_cache",
    ".ruff_cache",
    ".pytest_cache",
    "*.egg-info",
)


def copied(source: Path, target: Path) -> Path:
    """A copy of the project; with its compiled kernels, so that it starts as quickly."""
    shutil.copytree(source, target, ignore=shutil.ignore_patterns(*LEFT_OUT))
    return target


def reads_next(tree: Path) -> None:
    """First release: the new versions are there to be read."""
    folder = tree / "schemas" / "avsc"
    for name in SCHEMAS:
        schema = json.loads((folder / f"{name}.v1.avsc").read_text())
        schema["fields"].append(FIELD)
        (folder / f"{name}.v2.next.avsc").write_text(json.dumps(schema))


def writes_next(tree: Path) -> None:
    """Second release: the new versions are written."""
    folder = tree / "schemas" / "avsc"
    for name in SCHEMAS:
        (folder / f"{name}.v2.next.avsc").rename(folder / f"{name}.v2.avsc")


def is_next(tree: Path) -> bool:
    """Whether this is the first of the two releases."""
    return (tree / "schemas" / "avsc" / "raw_frame.v2.next.avsc").exists()


def start(tree: Path, log: Path, env: dict[str, str], *arguments: str) -> "subprocess.Popen[bytes]":
    """The command line of a copy."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "cli.main", *arguments],
            cwd=tree,
            env={**os.environ, **env, "PYTHONPATH": str(tree)},
            stdout=out,
            stderr=out,
        )
