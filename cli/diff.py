"""`twin diff A B`: what another limit, noise or model changed, over the same span."""

from typing import Annotated, Any

import typer

from cli import scoring
from cli.common import DEFAULT_RUN_DIR, ConfigOption, RunDirOption, out
from replay.diff.diffing import diff_runs
from replay.diff.diffs import Diff
from replay.diff.tables import tables
from replay.report.page import Plot, page
from replay.results import finished as results


def diff(
    first: Annotated[
        str, typer.Argument(help="A run's folder, its name (then from its topics), or live.", metavar="A")
    ],
    second: Annotated[str, typer.Argument(help="Another over the same span.", metavar="B")],
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    params: scoring.ParamsOption = None,
    truth: scoring.TruthOption = None,
    assets: scoring.AssetsOption = "",
    tags: scoring.TagsOption = "",
    start: scoring.FromOption = None,
    stop: scoring.ToOption = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Readings in the list of the largest differences.")] = 20,
    json_file: scoring.JsonOption = None,
    html: scoring.HtmlOption = None,
    plots: scoring.PlotsOption = 12,
) -> None:
    """Which flags changed from A to B, how errors, NIS and the model's states moved, and where it matters most.

    Errors of both are against the same reference: the truth where --truth has the tag, else a smoother over the
    readings that both accepted, with the noise of the configuration and --params.
    """
    with (
        scoring.clear_errors(),
        scoring.opened(first, config, run_dir, start, stop) as a,
        scoring.opened(second, config, run_dir, start, stop) as b,
    ):
        against, runs = scoring.against(scoring.settings_of(config, params), truth, None, "", 0.0, tags), (a, b)
        found = diff_runs(*runs, against, scoring.words(assets), top=top, plots=plots if html is not None else 0)
        lines = said(*runs, found)
        if json_file is not None:
            scoring.write_json(json_file, as_json(*runs, found))
        if html is not None:
            html.write_text(as_page(*runs, found, lines), "utf-8")
        for line in lines:
            out.print(line, markup=False)
        for table in tables(found):
            if table.rows:
                scoring.show(table)


def said(a: results.Run, b: results.Run, found: Diff) -> list[str]:
    """The sentences at the top."""
    matched, changed = sum(t.matched for t in found.tags), sum(t.changed for t in found.tags)
    only = [sum(t.only[i] for t in found.tags) for i in (0, 1)]
    lines = [
        f"A is {a.name}, B is {b.name}: {matched:,} readings in both, {only[0]:,} only in A, {only[1]:,} only in B; "
        f"{changed:,} have another flag."
    ]
    for run, missing in zip((b, a), found.missing, strict=True):
        if missing:
            lines.append(f"{run.name} does not have {', '.join(missing)}.")
    for name in ("params", "code", "source"):
        pair = [run.provenance.get(name) for run in (a, b)]
        if all(isinstance(text, str) for text in pair):
            lines.append(f"{name}: {pair[0]}" if pair[0] == pair[1] else f"{name}: {pair[0]} in A, {pair[1]} in B")
    return lines


def as_json(a: results.Run, b: results.Run, found: Diff) -> dict[str, Any]:
    """Everything, for --json."""
    return {
        "runs": [a.name, b.name],
        "tags": list(found.tags),
        "states": list(found.states),
        "largest": list(found.largest),
        "missing": found.missing,
        "provenance": [a.provenance, b.provenance],
    }


def as_page(a: results.Run, b: results.Run, found: Diff, lines: list[str]) -> str:
    """The page, for --html."""
    from replay.report.plots import pair_plot

    drawn = []
    for i, pair in enumerate(found.pairs):
        curves = {f"A: {a.name}": (pair.time_ns[0], pair.value[0]), f"B: {b.name}": (pair.time_ns[1], pair.value[1])}
        drawn.append(Plot(f"{pair.asset} {pair.name}", pair_plot(f"p{i}", pair.unit, curves, pair.marks)))
    provenance = {f"A: {a.name}": a.provenance, f"B: {b.name}": b.provenance}
    return page(f"Runs {a.name} and {b.name}", lines, tables(found), drawn, provenance)
