"""What `twin score` and `twin diff` share: their options, the settings a run is judged by, tables on the screen."""

import json
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaException
from pydantic import ValidationError
from rich.table import Table as RichTable

from cli.common import cells, config_path, configuration, on_topics_at_work, one_line_errors, out, use_environment_of
from kernels.settings import kernel_settings
from kernels.stage import Settings
from replay.report.page import Table
from replay.results import finished as results
from replay.results.fetched import fetch
from replay.results.finished import ResultError
from replay.score import labels, truth
from replay.score.figures import plain
from replay.score.moments import moment_ns
from replay.score.scores import Against
from replay.score.signals import choice
from replay.sources.topic import SourceError
from runtime.config import Plant
from runtime.generations import PlanError
from runtime.load import load, load_changed

#: Rows of a table on the screen; page and JSON have all.
ROWS_SHOWN = 60
_KAFKA = (KafkaException, SourceError, PlanError)
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")

ParamsOption = Annotated[
    Path | None, typer.Option("--params", help="TOML with keys of the configuration, merged over it.")
]
AssetsOption = Annotated[
    str, typer.Option("--assets", help="Only assets that match one of these patterns, as R1*,R20.")
]
TagsOption = Annotated[str, typer.Option("--tags", help="Only tags that match one of these patterns, as temp*,flow.")]
FromOption = Annotated[str | None, typer.Option("--from", help="From this event time on, as 2026-01-31T12:00:00Z.")]
ToOption = Annotated[str | None, typer.Option("--to", help="Before this event time.")]
TruthOption = Annotated[
    Path | None,
    typer.Option("--truth", help="CSV or Parquet with asset, tag, time, value; or a journal of the simulated plant."),
]
LabelsOption = Annotated[
    Path | None,
    typer.Option("--labels", help="CSV of windows in which something was wrong: start,end[,asset,tag,name]."),
]
SignalsOption = Annotated[
    str, typer.Option("--signals", help="What counts as a detection: tests, alerts, drift, zscore, alert:residual, …")
]
MergeOption = Annotated[
    float, typer.Option("--merge", min=0.0, help="Runs of signals not further apart than so many s are one alarm.")
]
JsonOption = Annotated[Path | None, typer.Option("--json", help="Write everything to this file.")]
HtmlOption = Annotated[Path | None, typer.Option("--html", help="Write one self-contained page with plots.")]
PlotsOption = Annotated[int, typer.Option("--plots", min=0, help="Most tags to plot in the page.")]


@contextmanager
def clear_errors() -> Iterator[None]:
    """Expected errors of a report end the command in one line."""
    with one_line_errors(ResultError, ValidationError, ValueError, OSError, *_KAFKA):
        yield


@contextmanager
def opened(run: str, config: Path | None, run_dir: Path, start: str | None, stop: str | None) -> Iterator[results.Run]:
    """A run by its folder, or by its name from its topics; `live`: what ran live. Raises ResultError."""
    span = moment(start), moment(stop)
    if Path(run).is_dir():
        yield results.load(Path(run), *span)
        return
    if not _NAME.fullmatch(run):
        raise ResultError(f"{run}: no such folder, and no name of a run")
    use_environment_of(run_dir)
    with tempfile.TemporaryDirectory(prefix="twin-run-") as folder:
        kafka = on_topics_at_work(configuration(config)).kafka
        yield results.load(fetch(kafka, run, Path(folder)), *span)


def settings_note(run: results.Run, settings_digest: str) -> list[str]:
    """A warning where a run was made with other settings than those it is judged by."""
    own = run.provenance.get("params")
    if own is None or own == settings_digest:
        return []
    return [
        f"note: run {run.name} was made with other settings than those given here; its noise and windows may differ"
    ]


def words(text: str) -> tuple[str, ...]:
    """A list given as `a,b`."""
    return tuple(word.strip() for word in text.split(",") if word.strip())


def moment(text: str | None) -> int | None:
    """A time option in ns; None where it is not given."""
    return None if text is None else moment_ns(text)


def plant_of(config: Path | None, params: Path | None) -> Plant:
    """The configuration with `params` merged over it. Raises ConfigurationError."""
    path = config_path(config)
    return load(path) if params is None else load_changed(path, params)


def settings_of(config: Path | None, params: Path | None) -> Settings:
    """The same as the kernels take it. Raises ConfigurationError."""
    return kernel_settings(plant_of(config, params))


def against(
    settings: Settings, truth_file: Path | None, labels_file: Path | None, signals: str, merge_s: float, tags: str
) -> Against:
    """What to score against, from the options. Raises ResultError."""
    return Against(
        settings=settings,
        truth=None if truth_file is None else truth.read(truth_file),
        labels=None if labels_file is None else labels.read(labels_file),
        choice=choice(words(signals)),
        merge_s=merge_s,
        tags=words(tags),
    )


def show(table: Table) -> None:
    """A table on the screen."""
    shown = RichTable(title=table.title, title_justify="left", title_style="bold")
    for i, name in enumerate(table.columns):
        shown.add_column(name, justify="left" if i < table.words else "right")
    for row in table.rows[:ROWS_SHOWN]:
        shown.add_row(*cells(*row))
    out.print(shown)
    if len(table.rows) > ROWS_SHOWN:
        out.print(f"the first {ROWS_SHOWN} of {len(table.rows)} rows; --json has all", style="dim")


def write_json(path: Path, value: Any) -> None:
    """Write a report as JSON; what is not known is null."""
    path.write_text(json.dumps(plain(value), indent=1, ensure_ascii=False) + "\n", "utf-8")
