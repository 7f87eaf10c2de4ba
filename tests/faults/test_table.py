"""The table judges: what must make a run fail does."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pytest

from tests.faults import table
from tests.faults.resources import Use
from tests.faults.rig import Outcome, Rig, TooLate
from tests.faults.rows.row_26 import judge_flatness
from tests.faults.system import DEFAULT_LOAD, LOAD_VARIABLE, Load, usual_load


def _run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, strike: object) -> Outcome:
    module = ModuleType("row")
    module.TITLE, module.run = "a row", strike  # type: ignore[attr-defined]
    monkeypatch.setattr(table.importlib, "import_module", lambda name: module)
    return table.run_row(99, 7, False, tmp_path)


def test_a_run_that_struck_nothing_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A row that passes because nothing happened has failed, and says so."""
    outcome = _run(monkeypatch, tmp_path, lambda rig: None)
    assert not outcome.passed
    assert outcome.failures == ["the fault did not strike"]


def test_what_struck_and_held_passes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """One blow and no failure is a pass."""
    assert _run(monkeypatch, tmp_path, lambda rig: rig.struck()).passed


@pytest.mark.parametrize("count", ["missing", "repeated", "altered"])
def test_a_wrong_reading_fails_the_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, count: str) -> None:
    """One reading missing, repeated or altered fails a run, whatever else held."""

    def strike(rig: Rig) -> None:
        rig.struck()
        setattr(rig.outcome, count, 1)

    assert _run(monkeypatch, tmp_path, strike).failures == [f"1 readings {count}"]


def test_an_exception_is_an_outcome(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A row that breaks down leaves a failed run with the reason and the command that repeats it, not a crash."""

    def strike(rig: Rig) -> None:
        rig.struck()
        raise TooLate("x: not within 1 s")

    outcome = _run(monkeypatch, tmp_path, strike)
    assert outcome.failures == ["TooLate: x: not within 1 s"]
    assert outcome.as_dict()["command"] == "make fault ROW=99 SEED=7"


def test_every_row_of_the_table_is_there() -> None:
    """There is a file for each of the 27 rows, with a title and a run."""
    assert table.row_numbers() == list(range(1, 28))


def _flatness(mib_per_min: float, lives_s: Sequence[int]) -> list[str]:
    rig = Rig(Outcome(row=26, title="", seed=1, short=False), Path(), None)  # type: ignore[arg-type]
    use = Use()
    for pid, life_s in enumerate(lives_s, 1):
        for n in range(life_s):
            use.add(pid, rss_mib=200 + mib_per_min * n / 60, handles=20)
    judge_flatness(rig, "twin", use)
    return rig.outcome.failures


def test_growing_memory_is_seen() -> None:
    """What grows with the age of a process is seen though most of its processes die young; what stays is not."""
    lives_s = [100] * 10 + [1200] + [100] * 10
    assert _flatness(0.0, lives_s) == []
    assert _flatness(3.0, lives_s) == ["twin: memory grew from 212 to 250 MiB"]


def test_flatness_needs_a_process_that_gets_old() -> None:
    """Where each process died young, an hour says nothing of memory, and that is a failure."""
    (failure,) = _flatness(0.0, [120] * 30)
    assert "no process lived" in failure


def test_passed_runs_are_repeated_unless_one_goes_on(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A table that was interrupted can go on where it was: what has passed is kept, what has failed runs again.

    Without being asked to go on all of it runs, so that a table never passes by what other code did.
    """
    ran: list[tuple[int, int]] = []

    def alone(row: int, seed: int, short: bool) -> table.Report:
        ran.append((row, seed))
        failures = ["broken"] if row == 2 and len(ran) < 4 else []
        return Outcome(row=row, title="t", seed=seed, short=short, struck=1, failures=failures).as_dict()

    monkeypatch.setattr(table, "run_row_alone", alone)
    out = tmp_path / "faults.json"
    table.run_table([1, 2], [1, 2], short=False, jobs=1, out=out, go_on=True)
    assert len(ran) == 4
    table.run_table([1, 2], [1, 2], short=False, jobs=1, out=out, go_on=True)
    assert ran[4:] == [(2, 1)]
    assert "| 2 | t | 1, 2 | 2 |" in out.with_suffix(".md").read_text()
    table.run_table([1, 2], [1, 2], short=False, jobs=1, out=out, go_on=False)
    assert sorted(ran[5:]) == [(1, 1), (1, 2), (2, 1), (2, 2)]


def test_the_load_of_the_full_form_can_be_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """FAULTS_LOAD holds for full forms only; what is no load is an error."""
    monkeypatch.setenv(LOAD_VARIABLE, "20x50x2.5")
    assert usual_load(short=True) == DEFAULT_LOAD
    assert usual_load(short=False) == Load(assets=20, tags=50, rate_hz=2.5)
    monkeypatch.setenv(LOAD_VARIABLE, "1000/s")
    with pytest.raises(ValueError, match="allowed is"):
        usual_load(short=False)
