"""`twin demo` deletes what an earlier demo left, and nothing else."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import demo
from cli.main import app
from runtime.exit_codes import FAILED
from services.errors import ServiceError

LEFT = "is no folder of a demo, and left as it is; empty it, or use another --run-dir\n"


def test_the_demo_empties_no_folder_but_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A folder with anything but a demo in it is left as it is, with one line and exit code 1; one that is absent,
    empty or a demo's is used."""
    kept = tmp_path / "live" / "kafka" / "data"
    kept.parent.mkdir(parents=True)
    kept.write_text("readings")

    def begin(_config: Path, run_dir: Path) -> None:
        assert [path.name for path in run_dir.iterdir()] == [demo.MARKER]
        (run_dir / "journal").write_text("of a demo")
        raise ServiceError("enough")

    monkeypatch.setattr(demo, "begin", begin)
    monkeypatch.chdir(tmp_path)
    for folder in ("live", ".", str(kept)):
        done = CliRunner().invoke(app, ["demo", "--run-dir", folder])
        assert done.exit_code == FAILED
        assert done.stderr == f"{folder} {LEFT}"
        assert kept.read_text() == "readings"
    (tmp_path / "empty").mkdir()
    for folder in ("absent", "empty", "absent"):
        assert CliRunner().invoke(app, ["demo", "--run-dir", folder]).stderr == "enough\n"
