"""`twin replay`: the kernels over a range of raw, beside the live system and without touching it."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, get_args

import typer
from confluent_kafka import KafkaException
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    config_path,
    configuration,
    err,
    on_topics_at_work,
    one_line_errors,
    out,
    use_environment_of,
)
from replay.fold.snapshots import SnapshotError
from replay.results.writers import WriteError
from replay.run import Frames, Request, RequestError, Result, To
from replay.run import replay as run_replay
from replay.sources.span import ALLOWED, SpanError
from replay.sources.topic import SourceError
from replay.workers import ReplayError
from runtime.config import ConfigurationError, Plant
from runtime.generations import PlanError
from runtime.kafka import TopicMismatch, TopicsMissing
from runtime.load import load_changed

ROLE = "replay"
EXPECTED = (
    RequestError, SpanError, SourceError, SnapshotError, ReplayError, WriteError, KafkaException, TopicMismatch,
    TopicsMissing,
)  # fmt: skip


def replay(
    begin: Annotated[str, typer.Option("--from", help=f"Where the span begins: {ALLOWED}.")],
    end: Annotated[str, typer.Option("--to", help="Where it ends, as --from.")],
    assets: Annotated[str, typer.Option(help="Only assets that match one of these patterns, like R1*,R2*.")] = "",
    params: Annotated[Path | None, typer.Option(help="TOML with changed tags, assets and twin settings.")] = None,
    run: Annotated[str | None, typer.Option(help="Name of the run; a new one where nothing is kept.")] = None,
    to: Annotated[str, typer.Option("--to-where", help=f"Where results go: {', '.join(get_args(To))}.")] = "topics",
    folder: Annotated[Path, typer.Option("--out", help="Where folders of Parquet files are.")] = Path("runs"),
    archive: Annotated[
        Path | None, typer.Option(help="Folder of `twin archive`: read what it has, the rest from the topic.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; one per core where not said.")] = None,
    state: Annotated[str, typer.Option(help="State at --from: nothing, warmup=10m, or live.")] = "nothing",
    frames: Annotated[
        str | None, typer.Option(help="as-live: the agents' bytes. wide: joined, faster, the same per reading.")
    ] = None,
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Fold a span of raw again, with the settings that are or with others, into topics or files of its own."""
    use_environment_of(run_dir)
    plant = _configuration(config, params)
    with one_line_errors(*EXPECTED, PlanError):
        request = Request(
            plant=plant,
            begin=begin,
            end=end,
            run=run or _unnamed(to),
            assets=tuple(pattern for pattern in assets.split(",") if pattern),
            to=one_of(to, To, "--to-where"),
            out=folder,
            archive=archive,
            workers=workers,
            state=state,
            frames=None if frames is None else one_of(frames, Frames, "--frames"),
        )
        request = replace(request, plant=on_topics_at_work(plant))  # only then ask Kafka
        with progress_bar("replay") as watch:
            result = run_replay(request, watch)
    out.print(summary(result))
    for note in result.notes:
        out.print(f"note: {note}", highlight=False, markup=False)


def summary(result: Result) -> Table:
    """What a run did and cost."""
    counts, found = result.counts, result.provenance
    assert found is not None
    table = Table("replay", found.run, show_header=True)
    rows = {
        "readings": f"{counts.readings:,} in {counts.frames:,} frames, folded as {counts.joined:,}",
        "raw": f"{found.source}, {sum(end - start for start, end in found.archived.values()):,} records of an archive",
        "speed": f"{result.readings_per_s:,.0f} readings/s, {result.times_real:,.1f} times real time",
        "wall clock": f"{result.wall_s:.2f} s",
        "CPU": f"{result.cpu_s:.2f} s with {found.workers} workers",
        "memory": f"{result.memory_bytes / 2**20:,.0f} MiB at most",
        "rejected, alerts": f"{counts.rejected:,}, {counts.alerts:,}",
        "state at the beginning": found.state,
        "frames": found.frames,
        "results": found.to,
        "parameters": found.params,
        "code": found.code,
    }
    for name, says in rows.items():
        table.add_row(name, says)
    return table


def _configuration(config: Path | None, params: Path | None) -> Plant:
    if params is None:
        return configuration(config, ROLE)
    try:
        return load_changed(config_path(config), params).as_role(ROLE)
    except ConfigurationError as error:
        raise ConfigurationError([f"--params {problem}" for problem in error.problems]) from error


def one_of(value: str, allowed: Any, option: str) -> Any:
    """The value, where a Literal allows it. Raises RequestError."""
    if value not in get_args(allowed):
        raise RequestError(f"{option} {value!r}: allowed are {', '.join(get_args(allowed))}")
    return value


def _unnamed(to: str) -> str:
    if to == "none":
        return f"unnamed-{os.getpid()}"
    raise RequestError(f"--run is missing: results that go to {to} need a name that is new")


@contextmanager
def progress_bar(doing: str) -> Iterator[Callable[[Result], None]]:
    """A bar, as what `watch` of a replay takes."""
    columns = (
        TextColumn(doing),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("records, {task.fields[speed]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=err, transient=True) as progress:
        task = progress.add_task(doing, total=None, speed="")

        def watch(result: Result) -> None:
            speed = f"{result.readings_per_s:,.0f} readings/s, {result.times_real:,.0f} × real time"
            progress.update(task, completed=result.counts.records, total=result.total, speed=speed)

        yield watch
