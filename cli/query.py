"""`twin query latest|range|window`: what InfluxDB holds, as a table, CSV or JSON."""

import json
from typing import Annotated, Literal

import pandas as pd
import typer
from rich.table import Table

from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    cells,
    configuration,
    one_line_errors,
    out,
    use_environment_of,
)
from queries.api import Aggregate, Queries, QueryError

app = typer.Typer(help="Ask the time series store.", no_args_is_help=True)

Format = Literal["table", "csv", "json"]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How to print; csv and json are exact.")]
AssetArgument = Annotated[str, typer.Argument(help="Asset, as R101.")]
TagArgument = Annotated[str, typer.Argument(help="Tag, as temperature.")]
StartOption = Annotated[str, typer.Option(help="-15m, -2d, 2026-01-31T12:00:00Z, or ns since 1970.")]
StopOption = Annotated[str, typer.Option(help="The same; now.")]
RunOption = Annotated[
    str, typer.Option(help="Points of this run (`twin replay --to-where influxdb`); live ones without it.")
]
ROWS_SHOWN = 50


@app.command()
def latest(
    asset: AssetArgument,
    tag: TagArgument,
    run: RunOption = "",
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    form: FormatOption = "table",
) -> None:
    """The newest reading of a tag."""
    with one_line_errors(QueryError), _queries(config, run_dir, run) as queries:
        _show(queries.latest(asset, tag).to_frame().T.rename_axis("time"), form)


@app.command("range")
def range_(
    asset: AssetArgument,
    tag: TagArgument,
    start: StartOption = "-15m",
    stop: StopOption = "now",
    run: RunOption = "",
    corrected: Annotated[
        bool, typer.Option("--corrected", help="Each reading as its newest correction has it (`twin correct`).")
    ] = False,
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    form: FormatOption = "table",
) -> None:
    """All readings of a tag in a time range."""
    with one_line_errors(QueryError), _queries(config, run_dir, run) as queries:
        if corrected and run:
            raise QueryError(f"--corrected --run {run!r}: allowed is one of them")
        ask = queries.corrected if corrected else queries.range
        _show(ask(asset, tag, _moment(start), _moment(stop)), form)


@app.command()
def window(
    asset: AssetArgument,
    tag: TagArgument,
    start: StartOption = "-15m",
    stop: StopOption = "now",
    every: Annotated[str, typer.Option(help="Length of a window, as 1s, 1m, 1h.")] = "1m",
    aggregate: Annotated[Aggregate, typer.Option(help="What of each window.")] = "mean",
    run: RunOption = "",
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    form: FormatOption = "table",
) -> None:
    """Mean, max or min per window of time."""
    with one_line_errors(QueryError), _queries(config, run_dir, run) as queries:
        _show(queries.window(asset, tag, _moment(start), _moment(stop), every=every, aggregate=aggregate), form)


def _queries(config: ConfigOption, run_dir: RunDirOption, run: str) -> Queries:
    use_environment_of(run_dir)
    return Queries(configuration(config).influxdb, run=run)


def _moment(text: str) -> int | str:
    return int(text) if text.isdigit() else text


def _show(rows: pd.DataFrame, form: Format) -> None:
    if form == "csv":
        typer.echo(rows.to_csv(), nl=False)
    elif form == "json":
        for time, row in zip(rows.index, rows.to_dict("records"), strict=True):
            typer.echo(json.dumps({"time": time, **row}, default=str))
    else:
        out.print(_table(rows))
        if len(rows) > ROWS_SHOWN:
            out.print(f"the last {ROWS_SHOWN} of {len(rows)} rows; --format csv has all", style="dim")


def _table(rows: pd.DataFrame) -> Table:
    shown = rows.tail(ROWS_SHOWN)
    columns = [c for c in shown.columns if c not in {"status", "mark", "arrival_time", "source", "seq", "tests"}]
    table = Table("time", *columns)
    for time, row in zip(shown.index, shown[columns].itertuples(index=False), strict=True):
        table.add_row(*cells(str(time), *(f"{cell:.6g}" if isinstance(cell, float) else str(cell) for cell in row)))
    return table
