"""`twin archive`: raw records to Parquet files, for longer than the topic keeps them."""

from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import KafkaException
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    configuration,
    err,
    on_topics_at_work,
    one_line_errors,
    use_environment_of,
)
from replay.archive import writing as archiving
from replay.archive.check import problems
from replay.archive.manifest import ArchiveError
from replay.sources.span import SpanError
from replay.sources.topic import SourceError
from runtime import exit_codes
from runtime.generations import PlanError

MB = 1024 * 1024


def archive(
    folder: Annotated[Path, typer.Argument(help="The archive: it is made, or goes on behind what it has.")],
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    verify: Annotated[bool, typer.Option("--verify", help="Read all files again; archive nothing.")] = False,
    chunk_mb: Annotated[
        float, typer.Option(min=0.01, help="MB of records of a partition in memory; larger files, fewer of them.")
    ] = archiving.CHUNK_BYTES / MB,
) -> None:
    """Archive raw records by day and asset, up to where the topic ends now. Killed at any point, it goes on.

    Leaves with 1 where it refuses to go on (records were deleted before they were archived, the topic is another one),
    and where --verify finds something wrong.
    """
    use_environment_of(run_dir)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(), console=err
    )
    with one_line_errors(ArchiveError, SourceError, SpanError, PlanError, KafkaException, OSError), bar:
        task = bar.add_task("files" if verify else "records", total=None)
        if verify:
            found = list(problems(folder, lambda done, of: bar.update(task, completed=done, total=of)))
        else:
            kafka = on_topics_at_work(configuration(config, "replay")).kafka
            added = archiving.archive(
                kafka,
                folder,
                chunk_bytes=int(chunk_mb * MB),
                progress=lambda done, of: bar.update(task, completed=done, total=of),
            )
    if not verify:
        size = f"{added.size_bytes / MB:.1f} MB in {added.files} files"
        typer.echo(f"{added.records} records, {added.readings} readings added to {folder}: {size}")
        return
    for problem in found:
        typer.echo(problem)
    typer.echo(f"{folder}: {'nothing is wrong' if not found else f'{len(found)} problems'}")
    if found:
        raise typer.Exit(exit_codes.FAILED)
