"""Row 26: an hour of blows chosen at random from the other rows; memory and file handles stay flat."""

import time
from collections.abc import Iterator
from importlib import import_module
from statistics import median

from tests.faults.resources import Use
from tests.faults.rig import Outcome, Rig
from tests.faults.rows import row_05
from tests.faults.standard import under_load
from tests.faults.system import System

TITLE = "one hour of a random mix"
#: Rows whose blow leaves a system like the one it found, so that the next one may strike it.
MIXED = (1, 2, 3, 5, 6, 10, 13)
QUICK = (1, 2, 3, 6, 10, 13)
FULL_S = 3600.0
CALM_S = (0.5, 8.0)  # between two blows
FLAT_FACTOR, FLAT_MIB, FLAT_HANDLES = 1.05, 5.0, 5
#: Flatness is judged by processes that have warmed up, and on runs long enough to have such in both halves.
WARM_SAMPLES, ENOUGH_SAMPLES = 60, 300


def run(rig: Rig) -> None:
    """One hour; in the short form each of the quick ones once. The field waits for its connectors, as in row 5."""
    under_load(rig, strike, settings=row_05.SETTINGS, load=row_05.LOAD, fail_points=True)


def strike(rig: Rig, system: System) -> None:
    """Blow after blow, each as small as its short form, with random pauses."""
    struck: dict[int, int] = {}
    for row in rig.rng.sample(QUICK, len(QUICK)) if rig.short else _for_an_hour(rig):
        blow = Rig(Outcome(row=row, title="", seed=rig.outcome.seed, short=True), rig.folder, rig.rng)
        before = rig.outcome.struck
        import_module(f"tests.faults.rows.row_{row:02d}").strike(blow, system)
        rig.struck(blow.outcome.struck)  # what the row counts itself; the system counts its own
        rig.outcome.recover_s += blow.outcome.recover_s
        rig.outcome.failures += [f"row {row}: {failure}" for failure in blow.outcome.failures]
        rig.note(f"row {row}", blow.outcome.notes)
        struck[row] = struck.get(row, 0) + rig.outcome.struck - before
        time.sleep(rig.rng.uniform(*CALM_S))
    rig.note("struck_by_row", struck)
    for name, use in system.resources.uses.items():
        judge_flatness(rig, name, use)


def _for_an_hour(rig: Rig) -> Iterator[int]:
    began = time.monotonic()
    while time.monotonic() - began < FULL_S:
        yield rig.rng.choice(MIXED)


def judge_flatness(rig: Rig, name: str, use: Use) -> None:
    """Warm processes of the second half of the run must not need more than those of the first."""
    if len(use.samples) < ENOUGH_SAMPLES:
        return
    middle = len(use.samples) // 2
    halves = [[s for s in half if s[0] >= WARM_SAMPLES] for half in (use.samples[:middle], use.samples[middle:])]
    if not all(halves):
        rig.note(f"flatness of {name}", "never lived long enough to judge")
        return
    (before_mib, before_handles), (after_mib, after_handles) = (
        (median(rss for _, rss, _ in half), median(handles for _, _, handles in half)) for half in halves
    )
    rig.note(f"flatness of {name}", {"MiB": [before_mib, after_mib], "handles": [before_handles, after_handles]})
    rig.require(
        after_mib <= before_mib * FLAT_FACTOR + FLAT_MIB,
        f"{name}: memory grew from {before_mib:.0f} to {after_mib:.0f} MiB",
    )
    rig.require(
        after_handles <= before_handles + FLAT_HANDLES,
        f"{name}: file handles grew from {before_handles:g} to {after_handles:g}",
    )
