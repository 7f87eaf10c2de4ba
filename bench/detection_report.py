"""The report of `bench.detection`: what each way of detecting finds with each set of parameters, what it does not."""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from replay.report.page import Plot, Table, page
from replay.report.plots import series_plot
from replay.score.labels import Detection, Found
from replay.score.scores import Scored
from replay.score.tables import number, percent, span

#: Parameters → way of detecting (signals that count) → scores.
Scores = Mapping[str, Mapping[tuple[str, ...], Scored]]

FIGURES = ("detected", "first signal after", "false alarms", "per day", "days outside", "recall by chance %")
NOTE = (
    "First signal after: – is a window that was missed, * one in which an alarm was on already when it began. "
    "Recall by chance: of alarms that come at random as often as the false ones do."
)
#: Signals meet a window by luck where alarms at random, as often as the false ones, would do so as often as this.
LUCK = 0.2
#: Beyond this share of its length a window is nearly over.
AT_END = 0.9
#: Between the signals of a way that counts several.
TOGETHER = " + "


def detections(scored: Scores) -> Iterator[tuple[str, str, str, Detection]]:
    """Way, asset, parameters and detection, those of one way and asset together."""
    first = next(iter(scored.values()))
    for way, one in first.items():
        for asset in one.assets:
            for name, ways in scored.items():
                found = next(a.detection for a in ways[way].assets if a.asset == asset.asset)
                if found is not None:
                    yield TOGETHER.join(way), asset.asset, name, found


def summary(scored: Scores) -> Table:
    """Each way, per asset and set of parameters: what it finds, what it misses, what that costs in false alarms."""
    rows = [
        [way, asset, name, *_figures(d), number(d.outside_days, 3), percent(d.by_chance)]
        for way, asset, name, d in detections(scored)
    ]
    return Table(title="Detection", columns=("signals", "asset", "parameters", *FIGURES), rows=rows, words=3, note=NOTE)


def windows(scored: Scores) -> Table:
    """Each labelled window: when each way first signalled in it, with each set of parameters."""
    ways = list(dict.fromkeys(way for way, *_ in detections(scored)))
    cells: dict[tuple[str, str, str], dict[str, list[str]]] = {}
    for way, asset, _, d in detections(scored):
        for w in d.windows:
            window = asset, w.name, span((w.end_ns - w.start_ns) / 1e9)
            cells.setdefault(window, {}).setdefault(way, []).append(_delay(w))
    rows = [[*window, *(" / ".join(found[way]) for way in ways)] for window, found in cells.items()]
    title = f"First signal in each window: {' / '.join(scored)}"
    return Table(title=title, columns=("asset", "window", "lasts", *ways), rows=rows, words=2, note=NOTE)


def tags(scored: Scores) -> list[Table]:
    """What each way of detecting comes to, per tag."""
    return [
        Table(
            title=f"{TOGETHER.join(way)}, {name}",
            columns=("asset", "tag", *FIGURES[:4], "mean NIS", "noise"),
            rows=[
                [t.asset, t.tag, *_figures(t.detection), number(t.nis.mean, 3), t.nis.verdict]
                for t in one.tags
                if t.detection is not None
            ],
            words=2,
            note=NOTE,
        )
        for name, ways in scored.items()
        for way, one in ways.items()
    ]


def in_words(scored: Scores) -> list[str]:
    """Plainly, per set of parameters: how soon a signal that is no luck met each window, what each signal misses."""
    lines = []
    for name in scored:
        seen: dict[str, list[tuple[float, str]]] = {}
        missed: dict[str, list[str]] = {}
        for way, asset, of, d in detections(scored):
            for w in d.windows if of == name and TOGETHER not in way else ():
                window, told = f"{asset} {w.name}", missed.setdefault(way, [])
                met = seen.setdefault(window, [])
                if not math.isfinite(w.delay_s):
                    told.append(window)
                elif w.already_on or d.by_chance > LUCK:
                    told.append(f"{window} (met by luck)")
                else:
                    at_end = w.delay_s > AT_END * (w.end_ns - w.start_ns) / 1e9
                    met.append((w.delay_s, f"after {span(w.delay_s)} by {way}{', when it was nearly over' * at_end}"))
        found = [f"{window} {min(met)[1]}" for window, met in seen.items() if met]
        nothing = [window for window, met in seen.items() if not met]
        lines.append(f"{name}, detected by some signal: {'; '.join(found) or 'nothing'}.")
        lines.append(f"{name}, detected by no signal: {'; '.join(nothing) or 'none of the windows'}.")
        lines += [f"{name}, {way} alone does not detect: {'; '.join(w)}." for way, w in missed.items() if w]
    return lines


def figures(scored: Scores) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        name: {TOGETHER.join(way): {"assets": s.assets, "tags": s.tags} for way, s in ways.items()}
        for name, ways in scored.items()
    }


def markdown(scored: Scores, tables: Sequence[Table], params: str, merge_h: float) -> str:
    """The report as a document."""
    fitted = "\n".join(line for line in params.strip().splitlines() if not line.startswith("# Version"))
    parts = [
        "# What is detected in the data sets, and what is not",
        "Made by `.venv/bin/python -m bench.detection --markdown docs/detection.md`; its head says how. *Configured* "
        "is `plant/datasets.toml`, *fitted* the same with what `twin fit --limits` finds where nothing is wrong: on "
        "the normal Tennessee Eastman file (TE00) and on NAB before its first label. So the alarms counted on TE00 are "
        "on the readings that were fitted; those on TE04 and TE13 before their faults (8 h each) and on NAB after its "
        f"first label are not. Alarms within {merge_h:g} h are one. *By luck*: alarms at random, as often as the false "
        f"ones, would meet more than {LUCK:.0%} of the windows.",
        "\n".join(f"- {line}" for line in in_words(scored)),
        *(f"## {table.title}\n\n{_as_markdown(table)}\n\n{table.note}" for table in tables),
        f"## The fitted parameters\n\n```toml\n{fitted}\n```",
    ]
    return "\n\n".join(parts) + "\n"


def drawn(scored: Scores, tables: Sequence[Table], config: str) -> str:
    """A page with all tables, and plots of the last way with the last parameters."""
    last = list(list(scored.values())[-1].values())[-1]
    plots = [Plot(f"{s.asset} {s.tag}", series_plot(s, f"p{i}")) for i, s in enumerate(last.series)]
    provenance = {"configuration": {"file": config, "params": "fitted on what is normal"}}
    return page("Detection in the data sets", [NOTE, *in_words(scored)], tables, plots, provenance)


def _figures(d: Detection) -> list[str]:
    detected = f"{d.detected} of {len(d.windows)}" if d.windows else "no fault"
    return [detected, ", ".join(map(_delay, d.windows)), str(d.false_alarms), number(d.false_alarms_per_day, 3)]


def _delay(window: Found) -> str:
    return span(window.delay_s) + ("*" if window.already_on else "")


def _as_markdown(table: Table) -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
