"""The table of faults.

python -m tests.faults --row 3 --seed 7           one row
python -m tests.faults --seeds 1,2,3 --jobs 2     all rows, in processes of their own; --continue after an end
"""

import json
import logging
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from tests.faults.table import one_line, row_numbers, run_row, run_table


def main(
    row: Annotated[int | None, typer.Option(help="One row, in this process.")] = None,
    seed: Annotated[int, typer.Option(help="Of that row.")] = 1,
    rows: Annotated[str, typer.Option(help="1,2,7: these rows; else all.")] = "",
    seeds: Annotated[str, typer.Option(help="1,2,3: one run per row and seed.")] = "1",
    short: Annotated[bool, typer.Option("--short", help="The form that fits into `make test`.")] = False,
    go_on: Annotated[bool, typer.Option("--continue", help="What has passed in --out is not run again.")] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Rows at a time.")] = 1,
    out: Annotated[Path, typer.Option(help="JSON; the table as Markdown comes beside it.")] = Path("faults.json"),
) -> None:
    """Strike, and let the checker judge. Exit code 0: every row passed."""
    logging.basicConfig(level=logging.WARNING)
    if row is None:
        wanted = [int(n) for n in rows.split(",")] if rows else row_numbers()
        reports = run_table(wanted, [int(s) for s in seeds.split(",")], short=short, jobs=jobs, out=out, go_on=go_on)
        sys.exit(0 if all(r["pass"] for r in reports) else 1)
    folder = Path(tempfile.mkdtemp(prefix=f"twin-row{row:02d}-seed{seed}-"))
    outcome = run_row(row, seed, short, folder)
    out.write_text(json.dumps([outcome.as_dict()], indent=1) + "\n")
    print(one_line(outcome.as_dict()))
    if outcome.passed:
        shutil.rmtree(folder, ignore_errors=True)
    else:
        print(f"    logs, journal and reports: {folder}")
    sys.exit(0 if outcome.passed else 1)


if __name__ == "__main__":
    typer.run(main)
