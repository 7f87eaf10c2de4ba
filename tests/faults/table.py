"""The table of faults: which rows there are, how one is run, and what is written about all of them."""

import importlib
import json
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tests.faults.rig import Outcome, Rig

ROOT = Path(__file__).parents[2]
ROWS_FOLDER = Path(__file__).parent / "rows"
#: The longest that any row may take, in s; row 26 mixes for an hour.
ROW_LIMIT_S = 2 * 3600
Report = dict[str, Any]


def row_numbers() -> list[int]:
    """Numbers of the rows there are."""
    return sorted(
        int(found[1]) for path in ROWS_FOLDER.iterdir() if (found := re.fullmatch(r"row_(\d\d)\.py", path.name))
    )


def run_row(row: int, seed: int, short: bool, folder: Path) -> Outcome:
    """Run one row in this process. Never raises for what the row finds: it is in the outcome."""
    module = importlib.import_module(f"tests.faults.rows.row_{row:02d}")
    outcome = Outcome(row=row, title=module.TITLE, seed=seed, short=short, code=_commit())
    began = time.monotonic()
    try:
        module.run(Rig(outcome, folder, random.Random(f"{row}/{seed}")))
    except Exception as error:
        outcome.failures.append(f"{type(error).__name__}: {error}")
        outcome.notes["traceback"] = traceback.format_exc()[-4000:]
    if not outcome.struck:
        outcome.failures.append("the fault did not strike")
    for count in ("missing", "repeated", "altered"):
        if getattr(outcome, count):
            outcome.failures.append(f"{getattr(outcome, count)} readings {count}")
    outcome.seconds = round(time.monotonic() - began, 1)
    outcome.notes = json.loads(json.dumps(outcome.notes).replace(str(folder), "."))  # the table goes to other machines
    return outcome


def run_row_alone(row: int, seed: int, short: bool) -> Report:
    """Run one row in a process of its own, with a folder of its own that is kept where the row fails."""
    with tempfile.TemporaryDirectory(prefix=f"twin-row{row:02d}-") as folder:
        out = Path(folder) / "outcome.json"
        command = [sys.executable, "-m", "tests.faults", "--row", str(row), "--seed", str(seed), "--out", str(out)]
        command += ["--short"] if short else []
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=ROW_LIMIT_S, check=False)
        if not out.exists():
            failure = f"ended with {done.returncode}: {done.stderr[-2000:]}"
            lost = Outcome(row=row, title="", seed=seed, short=short, failures=[failure])
            return lost.as_dict()
        report: Report = json.loads(out.read_text())[-1]
        return report


def run_table(
    rows: Iterable[int], seeds: Sequence[int], *, short: bool, jobs: int, out: Path, go_on: bool
) -> list[Report]:
    """Run rows × seeds, `jobs` at a time, and write `out` after each.

    `go_on`: what `out` holds as passed in this form is not run again.
    """
    reports = read(out)
    passed = {(r["row"], r["seed"]) for r in reports if go_on and r["pass"] and r["short"] == short}
    wanted = [(row, seed) for seed in seeds for row in rows if (row, seed) not in passed]
    print(f"{len(wanted)} runs; {len(passed)} have passed before", flush=True)
    reports = [r for r in reports if (r["row"], r["seed"]) not in wanted]

    def run_one(job: tuple[int, int]) -> Report:
        print(f"row {job[0]:2} seed {job[1]}: begins", flush=True)
        return run_row_alone(*job, short)

    with ThreadPoolExecutor(jobs) as pool:
        for ended in as_completed([pool.submit(run_one, job) for job in wanted]):
            report = ended.result()
            reports.append(report)
            write(out, reports)
            print(one_line(report), flush=True)
    return reports


def _commit() -> str:
    """The commit of this folder, with a + where files differ from it; empty where git cannot say."""
    command = ["git", "describe", "--always", "--dirty=+"]
    try:
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def one_line(report: Report) -> str:
    """A run in a line, and how to repeat it where it failed."""
    recover = f"{max(report['recover_s']):.1f} s" if report["recover_s"] else "–"
    text = (
        f"row {report['row']:2} seed {report['seed']}: {'pass' if report['pass'] else 'FAIL'}  "
        f"struck {report['struck']}, {report['readings']} readings, {report['missing']} missing, "
        f"{report['repeated']} repeated, {report['altered']} altered, recovered in {recover}, "
        f"took {report['seconds']:.0f} s  {report['title']}"
    )
    return (
        text
        if report["pass"]
        else "\n".join([text, *(f"    {f}" for f in report["failures"]), f"    {report['command']}"])
    )


def read(path: Path) -> list[Report]:
    """The runs in a file; none where there is no file."""
    return json.loads(path.read_text()) if path.exists() else []


def write(path: Path, reports: list[Report]) -> None:
    """All runs as JSON, by row and seed, and beside it the table as Markdown."""
    reports.sort(key=lambda r: (r["row"], r["seed"]))
    path.write_text(json.dumps(reports, indent=1) + "\n")
    path.with_suffix(".md").write_text(markdown(reports))


def markdown(reports: list[Report]) -> str:
    """One line per row over all its seeds; figures are sums, recovery is the slowest."""
    lines = [
        "# Faults survived",
        "",
        "Made by `make faults`; one row again by `make fault ROW=n SEED=s`. What each row does: `tests/faults/rows/`.",
        "Counts are readings; told: missing where a gap frame tells so, which only some rows allow.",
        "`faults.json` has the commit of each run that was noted.",
        f"Python {platform.python_version()}, {platform.machine()}.",
        "",
        "| # | fault | seeds | struck | readings/s | readings "
        "| missing | repeated | altered | told | slowest recovery (s) | pass |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in sorted({r["row"] for r in reports}):
        runs = [r for r in reports if r["row"] == row]
        totals = [
            sum(r[n] for r in runs) for n in ("struck", "readings", "missing", "repeated", "altered", "told_missing")
        ]
        recover = max((s for r in runs for s in r["recover_s"]), default=None)
        cells = [
            str(row),
            next((r["title"] for r in runs if r["title"]), "?"),
            ", ".join(str(r["seed"]) for r in runs),
            str(totals[0]),
            ", ".join(
                f"{hz:g}" for hz in sorted({r["notes"]["readings_hz"] for r in runs if "readings_hz" in r["notes"]})
            ),
            *(str(n) for n in totals[1:]),
            "–" if recover is None else f"{recover:.1f}",
            f"{sum(r['pass'] for r in runs)} of {len(runs)}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"
