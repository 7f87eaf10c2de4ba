"""Row 26: an hour of blows chosen at random from the other rows; memory and file handles stay flat."""

import time
from collections.abc import Iterator
from importlib import import_module
from statistics import median

from cli.processes import STAGES
from tests.faults.resources import Use
from tests.faults.rig import Outcome, Rig
from tests.faults.rows import row_05
from tests.faults.standard import under_load
from tests.faults.system import CONNECTORS, System

TITLE = "one hour of a random mix"
#: Rows whose blow leaves a system like the one it found, so that the next one may strike it.
MIXED = (1, 2, 3, 5, 6, 10, 13)
QUICK = (1, 2, 3, 6, 10, 13)
#: What grows with a process shows only where it gets old: a third of the hour kills no agent, another no connector.
THIRDS = ((1, 2, 6, 10), (3, 6, 10, 13), MIXED)
FULL_S = 3600.0
CALM_S = (0.5, 8.0)  # between two blows
#: The oldest process of a name, once warm: the end of its life against the beginning.
FLAT_FACTOR, FLAT_MIB, FLAT_HANDLES = 1.05, 5.0, 5
WARM_SAMPLES, OLD_SAMPLES = 60, 600


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
    if not rig.short:
        for name in (*STAGES, *CONNECTORS):
            judge_flatness(rig, name, system.resources.uses[name])


def _for_an_hour(rig: Rig) -> Iterator[int]:
    began = time.monotonic()
    while (past_s := time.monotonic() - began) < FULL_S:
        yield rig.rng.choice(THIRDS[int(past_s / FULL_S * len(THIRDS))])


def judge_flatness(rig: Rig, name: str, use: Use) -> None:
    """The oldest process of the name, once warm, needs no more in the last third of its life than in the first."""
    oldest = max(use.lives(), key=len)[WARM_SAMPLES:]
    if len(oldest) < OLD_SAMPLES:
        rig.require(
            False, f"{name}: no process lived for {WARM_SAMPLES + OLD_SAMPLES} samples, so nobody knows what grows"
        )
        return
    third = len(oldest) // 3
    (before_mib, before_handles), (after_mib, after_handles) = (
        (median(rss for rss, _ in part), median(handles for _, handles in part))
        for part in (oldest[:third], oldest[-third:])
    )
    flatness = {"MiB": [before_mib, after_mib], "handles": [before_handles, after_handles], "samples": len(oldest)}
    rig.note(f"flatness of {name}", flatness)
    rig.require(
        after_mib <= before_mib * FLAT_FACTOR + FLAT_MIB,
        f"{name}: memory grew from {before_mib:.0f} to {after_mib:.0f} MiB",
    )
    rig.require(
        after_handles <= before_handles + FLAT_HANDLES,
        f"{name}: file handles grew from {before_handles:g} to {after_handles:g}",
    )
