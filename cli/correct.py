"""`twin correct`: what came late, folded again as if it had come in order, beside what was written live."""

from dataclasses import replace
from pathlib import Path
from typing import Annotated, get_args

import numpy as np
import typer
from rich.table import Table

from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    cells,
    configuration,
    on_topics_at_work,
    one_line_errors,
    out,
    use_environment_of,
)
from cli.replay import EXPECTED, ROLE, one_of, progress_bar, summary
from replay.correct.correction import correct as run_correction
from replay.fold.beginning import WARM_UP
from replay.results.provenance import Provenance
from replay.run import Request, To
from replay.sources.span import ALLOWED
from runtime.generations import PlanError


def correct(
    begin: Annotated[str, typer.Option("--from", help=f"Where the span begins that it came late in: {ALLOWED}.")],
    end: Annotated[str, typer.Option("--to", help="Where it ends, as --from.")],
    assets: Annotated[str, typer.Option(help="Only assets that match one of these patterns, like R1*,R2*.")] = "",
    warm_up: Annotated[
        str,
        typer.Option("--warmup", help="Read before the span to know what is late; folded where live states are newer."),
    ] = "10m",
    to: Annotated[str, typer.Option("--to-where", help=f"Where results go: {', '.join(get_args(To))}.")] = "influxdb",
    folder: Annotated[Path, typer.Option("--out", help="Where folders of Parquet files are.")] = Path("runs"),
    archive: Annotated[
        Path | None, typer.Option(help="Folder of `twin archive`: read what it has, the rest from the topic.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Processes; one per core where not said.")] = None,
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Estimate again with the readings that came late, and write the results with a version beside the live ones."""
    use_environment_of(run_dir)
    plant = configuration(config, ROLE)
    with one_line_errors(*EXPECTED, PlanError):
        request = Request(
            plant=plant,
            begin=begin,
            end=end,
            run="corrected",
            assets=tuple(pattern for pattern in assets.split(",") if pattern),
            to=one_of(to, To, "--to-where"),
            out=folder,
            archive=archive,
            workers=workers,
            state=f"{WARM_UP}{warm_up}",
        )
        request = replace(request, plant=on_topics_at_work(plant))
        with progress_bar("correct") as watch:
            result = run_correction(request, watch)
    if result is None:
        out.print("no reading of the span is late: there is nothing to correct, and nothing was written")
        return
    assert result.provenance is not None
    out.print(summary(result))
    out.print(_assets(result.provenance))
    for note in result.notes:
        out.print(f"note: {note}", highlight=False, markup=False)


def _assets(found: Provenance) -> Table:
    table = Table("asset", "late", "corrected", "the earliest is of", "raw offset", "state before it")
    for asset, one in sorted(found.corrected.items()):
        earliest = f"{np.datetime_as_string(np.datetime64(one.from_ns, 'ns'), 'ms')}Z"
        table.add_row(*cells(asset), f"{one.late:,}", f"{one.corrected:,}", earliest, str(one.offset), one.state)
    return table
