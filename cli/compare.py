"""`twin compare LIVE RUN`: do two sides have the same outputs, to the byte, and if not, where do they part?"""

import json
import time
from contextlib import closing
from pathlib import Path
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient
from rich.progress import Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    cells,
    config_path,
    configuration,
    err,
    one_line_errors,
    out,
    printable,
    use_environment_of,
)
from kernels.settings import kernel_settings
from queries.influxql import QueryError
from queries.moments import moment_ns
from replay.compare.before import Side
from replay.compare.compare import Comparison, Line, add
from replay.compare.explain import Explanation, explain
from replay.compare.outputs import OUTPUTS, Filter, outputs_of
from replay.results.provenance import params_digest
from replay.results.run_record import published
from replay.results.writers import run_kafka
from replay.sources.span import SpanError
from replay.sources.topic import Reader, SourceError
from runtime import exit_codes
from runtime.config import Kafka, Plant
from runtime.generations import PlanError, at_work
from runtime.kafka import client_settings
from runtime.load import load_changed
from schemas.codec import DecodeError

NOT_COMPARABLE = 2
SHOWN_MAX = 20


class NoSuchSide(ValueError):
    """A name that is neither a prefix of topics nor a run."""


def compare(
    live: Annotated[str, typer.Argument(help="A prefix of topics, as twin (those at work); or the name of a run.")],
    run: Annotated[str, typer.Argument(help="The other: a prefix, as twin.run.NAME, or just NAME.")],
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    assets: Annotated[str | None, typer.Option(help="Only these, with commas between.")] = None,
    from_time: Annotated[
        str | None, typer.Option("--from", help="Frames of that time on: ISO 8601, or -15min.")
    ] = None,
    to_time: Annotated[str | None, typer.Option("--to", help="Frames before that time.")] = None,
    common: Annotated[bool, typer.Option("--common", help="Only from the first to the last frame both have.")] = False,
    params: Annotated[Path | None, typer.Option(help="TOML of changed settings that RUN was replayed with.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as one JSON object.")] = False,
) -> None:
    """Compare what two sides put out, frame by frame; leaves with 0 where all is equal, 1 where not, 2 where one side
    has frames before or behind the other's (then `--common` compares what both have).
    """
    use_environment_of(run_dir)
    plant = configuration(config)
    changed = plant if params is None else load_changed(config_path(config), params)
    with one_line_errors(
        NoSuchSide, QueryError, ValueError, SourceError, SpanError, DecodeError, PlanError, KafkaException
    ):
        now_ns = time.time_ns()
        wanted = Filter(
            assets=None if assets is None else frozenset(assets.split(",")),
            start_ns=None if from_time is None else moment_ns(from_time, now_ns),
            end_ns=None if to_time is None else moment_ns(to_time, now_ns),
        )
        kafka = at_work(plant.kafka)
        with closing(Reader(kafka)) as reader:
            sides = _side(kafka, reader, live), _side(kafka, reader, run)
            for side in sides:
                _look_at_run(kafka, (plant, changed), side)
            comparison = _compared(sides, wanted, common)
            found = explain(*sides, comparison, kernel_settings(plant), kernel_settings(changed))
    code = exit_codes.FAILED if comparison.is_different else 0 if comparison.is_comparable else NOT_COMPARABLE
    if as_json:
        typer.echo(json.dumps(_as_dict(comparison, found, code), ensure_ascii=False, indent=1))
    else:
        _print(comparison, found)
    if code:
        raise typer.Exit(code)


def _side(kafka: Kafka, reader: Reader, name: str) -> Side:
    """A prefix that has outputs, or a run of the configured one, which itself means the topics at work, `kafka`.

    Raises NoSuchSide, KafkaException.
    """
    topics = frozenset(AdminClient(client_settings(kafka)).list_topics(timeout=30).topics)
    prefix = kafka.prefix if name == kafka.configured_prefix else name
    prefixes = (prefix, run_kafka(kafka, name).prefix)
    sides = [Side(prefix=one, topics=topics, raw=kafka, reader=reader) for one in prefixes]
    found = [side for side in sides if all(side.has(topic) for topic in OUTPUTS.values())]
    if not found:
        raise NoSuchSide(f"{name!r}: there are no topics {name}.validated, .estimates, .state, nor a run of that name")
    if len(found) > 1:
        raise NoSuchSide(f"{name!r} is a prefix of topics and a run: {sides[1].prefix!r} is the run")
    return found[0]


def _look_at_run(kafka: Kafka, plants: tuple[Plant, Plant], side: Side) -> None:
    """Say what the provenance of a run says that matters here. Leaves where its frames are joined."""
    name = side.prefix.removeprefix(run_kafka(kafka, "").prefix)
    found = None if name == side.prefix else published(side.reader, kafka, name)
    if found is None:
        return
    if found.frames != "as-live":
        err.print(
            f"run {name} was made with --frames {found.frames}: only as-live runs have LIVE's frames", style="red"
        )
        raise typer.Exit(NOT_COMPARABLE)
    if found.params not in {params_digest(plant) for plant in plants}:
        err.print(f"run {name} was made with other settings; --params takes them", markup=False, soft_wrap=True)


def _compared(sides: tuple[Side, Side], wanted: Filter, common: bool) -> Comparison:
    comparison = Comparison()
    columns = TextColumn("{task.description}"), TextColumn("{task.completed} records"), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True) as bar:
        task = bar.add_task("", total=None)
        for stage in OUTPUTS:
            bar.update(task, description=stage)
            live, run = (
                outputs_of(side.reader, side.prefix, stage, wanted, lambda n: bar.advance(task, n)) for side in sides
            )
            add(comparison, live, run, common=common)
    return comparison


def _print(comparison: Comparison, found: Explanation | None) -> None:
    for title, rows in (("partition", _partition_rows(comparison)), ("asset", _asset_rows(comparison))):
        if rows:
            table = Table(title, "stage", "frames", "LIVE", "RUN", "")
            for row in rows:
                table.add_row(*cells(*row))
            out.print(table)
    for text in _sentences(comparison):
        typer.echo(printable(text))
    if found is not None:
        for text in _explained(found):
            typer.echo(printable(text))
    typer.echo(_summary(comparison))


def _partition_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    return [
        (str(partition), stage, "", live, run, "equal" if live == run else "DIFFERENT")
        for stage, partition, live, run in comparison.partitions()
    ]


def _asset_rows(comparison: Comparison) -> list[tuple[str, ...]]:
    lines = sorted(comparison.lines, key=lambda line: line.asset)
    return [(line.asset, line.stage, _frames(line), *line.digests, _word(line)) for line in lines]


def _frames(line: Line) -> str:
    live, run = line.frames
    return str(live) if live == run else f"{live} / {run}"


def _word(line: Line) -> str:
    return "equal" if line.is_equal else "DIFFERENT" if line.is_different else "other range"


def _sentences(comparison: Comparison) -> list[str]:
    """What is wrong, each once; of many of a kind the first."""
    found = [f"{side}: {fault.kind}: {fault.text}" for side, fault in comparison.faults[:SHOWN_MAX]]
    for line in comparison.lines:
        where = f"{line.stage}: "
        if line.first is not None:
            i = line.first.identity
            frame = f"{i.source}, epoch {i.epoch}, seq {i.seq}"
            found.append(f"{where}{line.differing} frames of {line.asset} differ, the first is {frame}")
        if line.swapped:
            found.append(f"{where}another order at {line.swapped} places: {line.order}")
        found += [f"{where}{missing}" for missing in line.missing[:SHOWN_MAX]]
        found += [f"{where}{missing} (another range)" for missing in line.outside[:SHOWN_MAX]]
    return found


def _explained(found: Explanation) -> list[str]:
    where, what = found.where, found.what
    i = where.identity
    reading = "" if what.index is None else f", reading {what.index}"
    tag = "" if what.tag is None else f" tag {what.tag},"
    states = [f"  {text}" for text in found.states] or (["  no state differs"] if len(found.origins) == 2 else [])
    return [
        f"First difference: asset {i.asset},{tag} time {what.time_ns} ns, stage {where.stage}",
        f"  frame {i.source}, epoch {i.epoch}, seq {i.seq}{reading}, {what.column}: LIVE {what.live}, RUN {what.run}",
        f"  at partition {where.live[0]} offset {where.live[1]}, and {where.run[0]} offset {where.run[1]}",
        "States before it:",
        *(f"  {origin}" for origin in found.origins),
        *states,
        *([found.verdict] if found.verdict else []),
    ]


def _summary(comparison: Comparison) -> str:
    assets = len({line.asset for line in comparison.lines})
    if comparison.is_different:
        unequal = {line.asset for line in comparison.lines if line.is_different}
        return f"DIFFERENT: {len(unequal)} of {assets} assets"
    if not any(min(line.frames) for line in comparison.lines):
        return "not comparable: no frame is on both sides"
    if not comparison.is_comparable:
        return "not comparable: one side has frames before or behind the other's; --common compares what both have"
    return f"equal: {sum(line.frames[0] for line in comparison.lines)} frames of {assets} assets, to the byte"


def _as_dict(comparison: Comparison, found: Explanation | None, code: int) -> dict[str, Any]:
    return {
        "result": {0: "equal", exit_codes.FAILED: "different", NOT_COMPARABLE: "not comparable"}[code],
        "partitions": [
            {"stage": stage, "partition": partition, "live": live, "run": run, "equal": live == run}
            for stage, partition, live, run in comparison.partitions()
        ],
        "assets": [
            {
                "asset": line.asset,
                "stage": line.stage,
                "partitions": line.partitions,
                "frames": line.frames,
                "live": line.digests[0],
                "run": line.digests[1],
                "equal": line.is_equal,
                "differing": line.differing,
                "swapped": line.swapped,
            }
            for line in comparison.lines
        ],
        "found": _sentences(comparison),
        "first": None if found is None else _first_as_dict(found),
    }


def _first_as_dict(found: Explanation) -> dict[str, Any]:
    what, where = found.what, found.where
    return {
        "stage": where.stage,
        **where.identity._asdict(),
        "tag": what.tag,
        "time_ns": what.time_ns,
        "index": what.index,
        "column": what.column,
        "live": what.live,
        "run": what.run,
        "places": {"live": where.live, "run": where.run},
        "states_from": found.origins,
        "states": found.states,
        "verdict": found.verdict,
    }
