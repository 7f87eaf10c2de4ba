"""`twin score`: how good a run was, per tag and per asset, as tables, JSON and a page."""

from typing import Annotated, Any

import typer

from cli import scoring
from cli.common import DEFAULT_RUN_DIR, ConfigOption, RunDirOption, out
from kernels.settings import kernel_settings
from replay.report.page import Plot, page
from replay.results import finished as results
from replay.results.provenance import params_digest
from replay.score.scores import Against, Scored, summary
from replay.score.scoring import score_run
from replay.score.tables import tables


def score(
    run: Annotated[str, typer.Argument(help="A run's folder, its name (then from its topics), or live.")],
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    params: scoring.ParamsOption = None,
    truth: scoring.TruthOption = None,
    labels: scoring.LabelsOption = None,
    signals: scoring.SignalsOption = "",
    merge: scoring.MergeOption = 0.0,
    assets: scoring.AssetsOption = "",
    tags: scoring.TagsOption = "",
    start: scoring.FromOption = None,
    stop: scoring.ToOption = None,
    json_file: scoring.JsonOption = None,
    html: scoring.HtmlOption = None,
    plots: scoring.PlotsOption = 12,
) -> None:
    """Errors, consistency, flags, detection, coverage and latency of a run.

    Errors are against the truth where --truth has the tag, else against a fixed-interval smoother over the accepted
    readings; the smoother takes the noise from the configuration and --params, so give those of the run.
    """
    with scoring.clear_errors(), scoring.opened(run, config, run_dir, start, stop) as found:
        plant = scoring.plant_of(config, params)
        against = scoring.against(kernel_settings(plant), truth, labels, signals, merge, tags)
        scored = score_run(found, against, scoring.words(assets), plots if html is not None else 0)
        lines = said(found, scored) + scoring.settings_note(found, params_digest(plant))
        if json_file is not None:
            scoring.write_json(json_file, as_json(found, scored, against))
        if html is not None:
            html.write_text(as_page(found, scored, lines), "utf-8")
        for line in lines:
            out.print(line, markup=False)
        for table in tables(scored):
            scoring.show(table)


def said(run: results.Run, scored: Scored) -> list[str]:
    """The sentences at the top."""
    s = summary(scored.assets, scored.tags)
    kinds = ", ".join(
        f"{n} against {'nothing' if kind == 'none' else kind}" for kind, n in s["references"].items() if n
    )
    lines = [f"{s['readings']:,} readings of {s['tags']} tags of {s['assets']} assets; {kinds}."]
    if s["windows"]:
        lines.append(f"{s['detected']} of {s['windows']} labelled windows detected, {s['false_alarms']} false alarms.")
    told = ("params", "code", "source", "state")
    lines += [f"{name}: {run.provenance[name]}" for name in told if isinstance(run.provenance.get(name), str)]
    return lines


def as_json(run: results.Run, scored: Scored, against: Against) -> dict[str, Any]:
    """Everything, for --json."""
    return {
        "run": run.name,
        "summary": summary(scored.assets, scored.tags),
        "signals": {"tests": against.choice.tests, "alerts": sorted(against.choice.alerts), "merge_s": against.merge_s},
        "assets": list(scored.assets),
        "tags": list(scored.tags),
        "provenance": run.provenance,
    }


def as_page(run: results.Run, scored: Scored, lines: list[str]) -> str:
    """The page, for --html."""
    from replay.report.plots import series_plot

    drawn = [Plot(f"{s.asset} {s.tag}", series_plot(s, f"p{i}")) for i, s in enumerate(scored.series)]
    return page(f"Score of run {run.name}", lines, tables(scored), drawn, {run.name: run.provenance})
