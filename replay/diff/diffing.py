"""Two runs over the same span, reading by reading: which flags changed, what moved, and where it matters most.

A reading is the same where asset, source, epoch, tag, source time, ordinal and occurrence are. May not know: how a
difference is shown, why the runs differ.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from kernels.estimation_params import EstimationParams
from replay.diff.diffs import I64, Diff, Floats, Pair, Place, StateDiff, TagDiff
from replay.results.finished import AssetRun, ResultError, Run
from replay.score.figures import consistency, errors
from replay.score.scores import Against
from replay.score.scoring import ACCEPTED, fitting, reference
from replay.score.series import extremes
from schemas.quality import Flag, Test

KEY = ["source", "epoch", "tag", "source_time_ns", "ordinal", "occurrence"]
COMPARED = ["arrival_time_ns", "value", "mark", "flag", "tests", "estimate", "std", "innovation", "nis", "unit"]
#: Examples per tag and change of flag; readings per tag in the list of the largest; readings between two of these.
EXAMPLES, LARGEST, APART = 3, 5, 20
MARKS_MAX = 60


def diff_runs(
    first: Run, second: Run, against: Against, assets: Sequence[str] = (), *, top: int = 20, plots: int = 0
) -> Diff:
    """Compare two runs, asset by asset. `assets`: patterns; `top`: readings in the list of the largest differences.

    Raises ResultError where they have no asset or no reading in common.
    """
    there = first.counts().keys(), second.counts().keys()
    common = sorted(first.matching(assets).keys() & second.matching(assets).keys())
    if not common:
        what = f"an asset that matches {', '.join(assets)}" if assets else "any asset"
        raise ResultError(f"runs {first.name} and {second.name} do not both have {what}")
    tags: list[TagDiff] = []
    states: list[StateDiff] = []
    pairs: list[Pair] = []
    for asset in common:  # each by itself: the two runs may have them in another order
        a, b = first.asset(asset), second.asset(asset)
        found, drawn = _asset(a, b, against)
        moved, curves = _states(a, b)
        tags, states = tags + found, states + moved
        pairs = sorted(pairs + drawn + curves, key=lambda pair: -pair.weight)[:plots]
    if not any(t.matched for t in tags):
        raise ResultError(
            f"runs {first.name} and {second.name} have no reading in common; are they over the same span?"
        )
    largest = sorted((place for t in tags for place in t.largest), key=lambda place: -place.times_std)[:top]
    only = tuple(sorted(there[0] - there[1])), tuple(sorted(there[1] - there[0]))
    return Diff(tags=tags, states=states, largest=largest, pairs=pairs, missing=only)


def matched(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Readings of both, one row per reading, columns of the first ending in `_a`, of the second in `_b`; `side` says
    which have it: both, left_only, right_only. In order of source time.
    """
    both = _keyed(a).merge(_keyed(b), on=KEY, how="outer", suffixes=("_a", "_b"), indicator="side")
    return both.sort_values("source_time_ns", kind="stable", ignore_index=True)


def _keyed(rows: pd.DataFrame) -> pd.DataFrame:
    named = rows.astype({"source": str, "tag": str, "unit": str})
    named["occurrence"] = named.groupby(KEY[:-1], sort=False).cumcount()
    return named[KEY + COMPARED]


def _asset(a: AssetRun, b: AssetRun, against: Against) -> tuple[list[TagDiff], list[Pair]]:
    params = EstimationParams(against.settings)
    found, pairs = [], []
    for tag, rows in matched(a.readings, b.readings).groupby("tag", sort=True):
        if against.wants(str(tag)):
            diff, pair = _tag(a.asset, str(tag), rows, params, against)
            found.append(diff)
            pairs.append(pair)
    return found, pairs


def _tag(asset: str, tag: str, rows: pd.DataFrame, params: EstimationParams, against: Against) -> tuple[TagDiff, Pair]:
    both = rows[(rows["side"] == "both").to_numpy()]
    sides = _side(both, "a"), _side(both, "b")
    unit = str(both["unit_a"].iloc[-1]) if len(both) else ""
    known = None if against.truth is None else against.truth.lines.get((asset, tag))
    kind, line, _ = reference(_accepted_by_both(*sides), known, params.table(asset, (tag,), (unit,))[0])
    time_ns = both["source_time_ns"].to_numpy(np.int64)
    truth, noise = line.at(time_ns), against.settings.tag(asset, tag)["estimation"]
    window, confidence = noise["nis_window"], noise["nis_confidence"]
    estimates = [side["estimate"].to_numpy(np.float64) for side in sides]
    moved, std = np.abs(estimates[1] - estimates[0]), sides[0]["std"].to_numpy(np.float64)
    times = np.divide(moved, std, out=np.full(len(moved), math.nan), where=std > 0.0)
    changed = np.flatnonzero(sides[0]["flag"].to_numpy() != sides[1]["flag"].to_numpy())
    diff = TagDiff(
        asset=asset,
        tag=tag,
        unit=unit,
        matched=len(both),
        only=(int((rows["side"] == "left_only").sum()), int((rows["side"] == "right_only").sum())),
        changed=len(changed),
        flags=_flags(*sides, changed),
        tests=_tests(*sides),
        reference=kind,
        estimate=(errors(estimates[0], truth), errors(estimates[1], truth)),
        nis=(consistency(*fitting(sides[0]), window, confidence), consistency(*fitting(sides[1]), window, confidence)),
        moved_rms=_rms(moved),
        moved_max=_max(moved),
        times_std_max=_max(times),
        examples=[_place(asset, tag, sides, i, times[i]) for i in _examples(*sides, changed)],
        largest=[_place(asset, tag, sides, i, times[i]) for i in _largest(times)],
    )
    return diff, _pair(diff, time_ns, estimates, time_ns[changed])


def _pair(diff: TagDiff, time_ns: I64, estimates: Sequence[Floats], changed: I64) -> Pair:
    """Both estimates, with the extremes of either and of what is between them."""
    between = estimates[1] - estimates[0]
    few = np.union1d(extremes(between, 150), extremes(estimates[0], 150))
    return Pair(
        asset=diff.asset,
        name=diff.tag,
        unit=diff.unit,
        time_ns=(time_ns[few], time_ns[few]),
        value=(estimates[0][few], estimates[1][few]),
        marks=changed[:: max(1, len(changed) // MARKS_MAX)],
        weight=diff.times_std_max if math.isfinite(diff.times_std_max) else 0.0,
    )


def _side(both: pd.DataFrame, suffix: str) -> pd.DataFrame:
    """One run's columns under their own names."""
    own = {f"{name}_{suffix}": name for name in COMPARED}
    return both[["source_time_ns", *own]].rename(columns=own)


def _accepted_by_both(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """The first run's readings, with those that the second did not accept as suspect: the reference favours neither."""
    refused = ~np.isin(b["flag"].to_numpy(np.int64), ACCEPTED)
    flag = np.where(refused, int(Flag.SUSPECT), a["flag"].to_numpy(np.int64))
    tests = a["tests"].to_numpy(np.int64) | b["tests"].to_numpy(np.int64)
    return a.assign(flag=flag, tests=tests)


def _flags(a: pd.DataFrame, b: pd.DataFrame, changed: Any) -> dict[str, int]:
    pairs = zip(a["flag"].to_numpy()[changed].tolist(), b["flag"].to_numpy()[changed].tolist(), strict=True)
    return {f"{_flag(x)} → {_flag(y)}": n for (x, y), n in sorted(Counter(pairs).items())}


def _tests(a: pd.DataFrame, b: pd.DataFrame) -> dict[str, tuple[int, int]]:
    before, after = a["tests"].to_numpy(np.int64), b["tests"].to_numpy(np.int64)
    found = {}
    for test in Test:
        gained = int(np.count_nonzero(after & ~before & int(test)))
        lost = int(np.count_nonzero(before & ~after & int(test)))
        if gained or lost:
            found[str(test.name).lower()] = (gained, lost)
    return found


def _examples(a: pd.DataFrame, b: pd.DataFrame, changed: Any) -> list[int]:
    """The first few readings of every change of flag."""
    seen: Counter[tuple[int, int]] = Counter()
    found = []
    before, after = a["flag"].to_numpy(), b["flag"].to_numpy()
    for i in changed.tolist():
        kind = int(before[i]), int(after[i])
        seen[kind] += 1
        if seen[kind] <= EXAMPLES:
            found.append(i)
    return found


def _largest(times: Floats) -> list[int]:
    """The readings with the largest differences, not nearer to each other than APART readings."""
    left = np.where(np.isfinite(times), times, 0.0)
    found = []
    for _ in range(LARGEST):
        if not len(left) or left.max() <= 0.0:
            break
        i = int(left.argmax())
        found.append(i)
        left[max(0, i - APART) : i + APART + 1] = 0.0
    return found


def _place(asset: str, tag: str, sides: tuple[pd.DataFrame, pd.DataFrame], i: int, times: float) -> Place:
    a, b = (side.iloc[i] for side in sides)
    return Place(
        asset=asset,
        tag=tag,
        time_ns=int(a["source_time_ns"]),
        value=float(a["value"]),
        flags=(_flag(a["flag"]), _flag(b["flag"])),
        tests=(_names(a["tests"]), _names(b["tests"])),
        estimates=(float(a["estimate"]), float(b["estimate"])),
        times_std=float(times),
    )


def _states(a: AssetRun, b: AssetRun) -> tuple[list[StateDiff], list[Pair]]:
    """The model's states of one asset in both runs, at the times of the first run's records."""
    curves = _curves(a.states), _curves(b.states)
    found, pairs = [], []
    for name in sorted(curves[0].keys() & curves[1].keys()):
        (at, value), (other_at, other) = curves[0][name], curves[1][name]
        inside = (at >= other_at[0]) & (at <= other_at[-1])
        if not inside.any():
            continue
        at, value = at[inside], value[inside]
        moved = (
            np.interp((at - other_at[0]).astype(np.float64), (other_at - other_at[0]).astype(np.float64), other) - value
        )
        place = int(np.argmax(np.abs(moved)))
        found.append(
            StateDiff(
                asset=a.asset,
                name=name,
                records=len(at),
                last=(float(curves[0][name][1][-1]), float(other[-1])),
                moved_rms=_rms(moved),
                moved_max=float(abs(moved[place])),
                moved_max_ns=int(at[place]),
            )
        )
        few, fewer = extremes(value, 200), extremes(other, 200)
        # before all tags where it moved: what a model says is what a what-if is made for
        weight = math.inf if moved.any() else 0.0
        pairs.append(Pair(asset=a.asset, name=name, unit="", time_ns=(at[few], other_at[fewer]),
                          value=(value[few], other[fewer]), weight=weight))  # fmt: skip
    return found, pairs


def _curves(states: pd.DataFrame) -> dict[str, tuple[I64, Floats]]:
    """Each state of the model over time, ascending, the last where several records have the same time."""
    points: dict[str, dict[int, float]] = {}
    for time_ns, numbers in zip(states["time_ns"].tolist(), states["model_states"].tolist(), strict=True):
        for name, value in dict(numbers or {}).items():
            if value is not None and math.isfinite(value):
                points.setdefault(name, {})[time_ns] = value
    ordered = {name: sorted(of.items()) for name, of in points.items()}
    return {
        name: (np.array([t for t, _ in of], np.int64), np.array([v for _, v in of])) for name, of in ordered.items()
    }


def _rms(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(np.sqrt(np.mean(finite**2))) if len(finite) else math.nan


def _max(values: Floats) -> float:
    finite = values[np.isfinite(values)]
    return float(np.max(finite)) if len(finite) else math.nan


def _flag(number: Any) -> str:
    return Flag(int(number)).name.lower()


def _names(bits: Any) -> str:
    return ", ".join(str(test.name).lower() for test in Test if int(bits) & int(test))
