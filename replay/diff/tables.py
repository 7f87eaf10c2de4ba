"""A difference of two runs as tables of text, for screen and page. May not know: how they are drawn."""

from collections.abc import Iterable

from replay.diff.diffs import Diff, Place, StateDiff, TagDiff
from replay.report.page import Table
from replay.score.moments import shown
from replay.score.tables import number


def tables(diff: Diff) -> list[Table]:
    """All tables, those of what did not change left out."""
    examples = [place for t in diff.tags for place in t.examples]
    return [_moved(diff.tags), _flags(diff.tags), _states(diff.states), _largest(diff.largest), _examples(examples)]


def _moved(tags: Iterable[TagDiff]) -> Table:
    rows = []
    for t in tags:
        (a, b), (m, n) = t.estimate, t.nis
        figures = [
            f"{number(x)} → {number(y)}" for x, y in ((a.rmse, b.rmse), (a.mae, b.mae), (a.r2, b.r2), (m.mean, n.mean))
        ]
        noise = m.verdict if m.verdict == n.verdict else f"{m.verdict} → {n.verdict}"
        moved = [number(t.moved_rms), number(t.moved_max), number(t.times_std_max, 3)]
        only = f"{t.only[0]} / {t.only[1]}"
        rows.append([t.asset, t.tag, t.unit, t.reference, str(t.matched), only, *figures, noise, *moved])
    return Table(
        title="What moved",
        columns=("asset", "tag", "unit", "against", "readings", "only in A / B", "RMSE", "MAE", "R²", "mean NIS",
                 "noise", "estimates moved by RMS", "at most", "in std of A"),
        rows=rows,
        words=4,
        note="A smoother as reference is over the readings that both runs accepted, with the configuration's noise.",
    )  # fmt: skip


def _flags(tags: Iterable[TagDiff]) -> Table:
    rows = []
    for t in tags:
        if t.changed or t.tests:
            flags = ", ".join(f"{name} {n}" for name, n in t.flags.items()) or "none"
            tests = ", ".join(f"{name} +{gained} −{lost}" for name, (gained, lost) in t.tests.items())
            rows.append([t.asset, t.tag, flags, tests, str(t.changed), str(t.matched)])
    columns = ("asset", "tag", "flags of A → B", "tests that speak now + and no longer −", "changed", "of readings")
    return Table(title="Flags that changed", columns=columns, rows=rows, words=4)


def _states(states: Iterable[StateDiff]) -> Table:
    rows = [
        [s.asset, s.name, f"{number(s.last[0], 6)} → {number(s.last[1], 6)}", number(s.moved_rms), number(s.moved_max),
         shown(s.moved_max_ns), str(s.records)]
        for s in states
    ]  # fmt: skip
    columns = ("asset", "state of the model", "at the end", "moved by RMS", "at most", "then, UTC", "records")
    return Table(title="Model", columns=columns, rows=rows, words=2)


def _largest(places: Iterable[Place]) -> Table:
    return Table(
        title="Where it matters most",
        columns=(
            "asset",
            "tag",
            "flag",
            "tests",
            "time UTC",
            "reading",
            "estimate A",
            "estimate B",
            "difference in std of A",
        ),
        rows=[_row(place) for place in places],
        words=4,
    )


def _examples(places: Iterable[Place]) -> Table:
    return Table(
        title="Examples of changed flags",
        columns=(
            "asset",
            "tag",
            "flag",
            "tests",
            "time UTC",
            "reading",
            "estimate A",
            "estimate B",
            "difference in std of A",
        ),
        rows=[_row(place) for place in places],
        words=4,
    )


def _row(p: Place) -> list[str]:
    flag = p.flags[0] if p.flags[0] == p.flags[1] else " → ".join(p.flags)
    tests = p.tests[0] if p.tests[0] == p.tests[1] else " → ".join(names or "none" for names in p.tests)
    numbers = [number(p.value, 6), *(number(e, 6) for e in p.estimates), number(p.times_std, 3)]
    return [p.asset, p.tag, flag, tests, shown(p.time_ns), *numbers]
