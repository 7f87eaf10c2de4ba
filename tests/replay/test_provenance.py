import shutil
from pathlib import Path

import pytest

from replay.results import provenance
from replay.results.provenance import SOURCES, code_version


@pytest.mark.parametrize("folder", SOURCES)
def test_the_sources_of_the_digest_are_where_it_looks(folder: str) -> None:
    """Every folder that the version of code is made of has sources."""
    assert list((provenance.ROOT / folder).rglob("*.py"))


@pytest.mark.parametrize("folder", SOURCES)
def test_one_changed_byte_is_another_version_of_code(
    folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two runs of different sources never claim the same code; a folder without sources is an error."""
    for name in SOURCES:
        (tmp_path / name / "inner").mkdir(parents=True)
        (tmp_path / name / "inner" / "a.py").write_bytes(b"limit = 1")
    monkeypatch.setattr(provenance, "ROOT", tmp_path)
    before = code_version.__wrapped__()
    (tmp_path / folder / "inner" / "a.py").write_bytes(b"limit = 2")
    assert code_version.__wrapped__() != before
    shutil.rmtree(tmp_path / folder)
    with pytest.raises(FileNotFoundError, match=f"{folder}: no sources"):
        code_version.__wrapped__()
