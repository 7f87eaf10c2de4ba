"""What the kernels detect in the data sets of `plant/data`, and what they do not, with two sets of parameters.

    .venv/bin/python -m bench.detection [--params found.toml] [--merge-h H] [--markdown docs/detection.md] \\
        [--tags] [--report x.json] [--html x.html] [--keep FOLDER]

Plays NAB and Tennessee Eastman files through validation, estimation and twin, without services, and scores them: NAB
against its labels, the faults against their start row (161), the normal file for false alarms; of Tennessee Eastman the
reactor's five tags. First with `plant/datasets.toml`, then with what `twin fit --limits` finds by its own code in that
run where nothing is wrong (noise of the filters, thresholds of the drift test), merged over it as `--params` does: on
the normal file (TE00), which then holds for all of Tennessee Eastman, and on the days of NAB before its first label.
No label is looked at to choose a parameter. `--params`: a file in place of that fit. `--keep`: leaves both runs and the
fitted file in a new folder.
"""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from bench import detection_report as report
from cli import scoring
from cli.fit import fitted, provenance
from kernels.stage import Settings, fold
from kernels.stages import STAGES
from plant import datasets
from plant.datasets import DataSet
from replay.fit import file as fit_file
from replay.fit.fits import Sought
from replay.results import finished as results
from replay.results.tables import Folder
from replay.score import labels
from replay.score.scores import Against, Scored
from replay.score.scoring import score_run
from replay.score.signals import choice
from replay.sources.raw import Raw
from schemas.frames import Frame

CONFIG = Path(datasets.__file__).parent / "datasets.toml"
FILES = (
    *sorted((datasets.DIRECTORY / "tennessee_eastman").glob("*.dat")),
    datasets.DIRECTORY / "nab" / "machine_temperature_system_failure.csv",
)
LABELS = tuple(sorted(datasets.DIRECTORY.glob("*/labels.csv")))
#: Reactor pressure, level, temperature, cooling water outlet temperature, cooling water flow; NAB's one temperature.
TE_TAGS = ("xmeas_07", "xmeas_08", "xmeas_09", "xmeas_21", "xmv_10")
TAGS = (*TE_TAGS, "temperature")
#: What is asked for one by one: each alone, and together.
WAYS: tuple[tuple[str, ...], ...] = (
    ("drift",), ("nis_gate",), ("zscore",), ("spike",), ("alert:nis_inconsistent",),
    ("drift", "nis_gate", "zscore", "spike"),
)  # fmt: skip
ROWS_PER_FRAME = 20
NORMAL, NAB = "TE00", "NAB"
SOUGHT = Sought(limits=True, reactor=False)


def main() -> None:
    """Play, fit, play again, score both, print."""
    arguments = _arguments()
    if arguments.keep is not None and arguments.keep.exists():
        raise SystemExit(f"--keep {arguments.keep}: is there already; allowed is a new folder")
    with tempfile.TemporaryDirectory(prefix="twin-detection-") as temporary:
        folder = arguments.keep or Path(temporary)
        scored = compared(folder, arguments.params, arguments.merge_h * 3600.0)
        text = (arguments.params or folder / "found.toml").read_text("utf-8")
    tables = [report.summary(scored), report.windows(scored)]
    console = Console(width=150)
    console.print(f"alarms within {arguments.merge_h:g} h are one")
    for table in [*tables, *(report.tags(scored) if arguments.tags else ())]:
        scoring.show(table)
    for line in report.in_words(scored):
        console.print(line)
    if arguments.report is not None:
        scoring.write_json(arguments.report, report.figures(scored))
    if arguments.markdown is not None:
        arguments.markdown.write_text(report.markdown(scored, tables, text, arguments.merge_h), "utf-8")
    if arguments.html is not None:
        arguments.html.write_text(report.drawn(scored, [*tables, *report.tags(scored)], CONFIG.name), "utf-8")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=None, help="settings to merge over plant/datasets.toml, no fit")
    parser.add_argument("--merge-h", type=float, default=1.0, help="signals at most so many hours apart are one alarm")
    parser.add_argument("--keep", type=Path, default=None, help="leave runs and fitted file in this new folder")
    parser.add_argument("--tags", action="store_true", help="print a table per way with every tag")
    parser.add_argument("--report", type=Path, default=None, help="write all figures as JSON")
    parser.add_argument("--markdown", type=Path, default=None, help="write the report as Markdown")
    parser.add_argument("--html", type=Path, default=None, help="write a page with plots")
    return parser.parse_args()


def compared(folder: Path, params: Path | None, merge_s: float) -> report.Scores:
    """Scores with the configured parameters and with the fitted ones; leaves runs and `found.toml` in the folder."""
    settings = scoring.settings_of(CONFIG, None)
    configured = play(folder / "configured", shared(settings))
    if params is None:
        params = folder / "found.toml"
        params.write_text(fit(configured.folder, settings), "utf-8")
    changed = shared(scoring.settings_of(CONFIG, params))
    found = play(folder / "fitted", changed)
    return {
        "configured": {way: judged(configured, shared(settings), way, merge_s) for way in WAYS},
        "fitted": {way: judged(found, changed, way, merge_s) for way in WAYS},
    }


def fit(folder: Path, settings: Settings) -> str:
    """What `twin fit --limits --no-reactor` writes for the normal file and for NAB before its first label."""
    first = min(w.start_ns for w in labelled() if w.asset == NAB)
    spans = ((results.load(folder), NORMAL, TE_TAGS), (results.load(folder, None, first), NAB, ()))
    return "\n".join(
        fit_file.text(fitted(run, settings, (asset,), tags, SOUGHT), provenance(run)) for run, asset, tags in spans
    )


def labelled() -> list[labels.Window]:
    """The windows of both data sets."""
    return [window for path in LABELS for window in labels.read(path)]


def shared(settings: Settings) -> Settings:
    """The same, but what holds for the normal Tennessee Eastman file holds for those with a fault."""

    def of(asset: str) -> str:
        return NORMAL if asset.startswith("TE") else asset

    return replace(settings, tag=lambda asset, tag: settings.tag(of(asset), tag))


def play(folder: Path, settings: Settings) -> results.Run:
    """All files through the kernels, as a run in `folder`."""
    for partition, path in enumerate(FILES):
        data = datasets.load(path)
        out = Folder(folder, partition)
        outputs: Iterator[Any] = frames(data)
        for name, entry in STAGES.items():
            stage = entry.stage
            folded = fold(stage, stage.initial(data.asset), outputs, entry.params_from(settings))
            outputs = _kept(out, name, folded)
        for _ in outputs:
            pass
        out.close()
    (folder / "run.json").write_text("{}", "utf-8")
    return results.load(folder)


def _kept(out: Folder, name: str, folded: Iterator[Any]) -> Iterator[Any]:
    for _, output, _ in folded:
        if name == "estimation":
            out.readings(output, [Raw("file", 0, 0, b"", output)])
        elif name == "twin":
            out.state(output)
        yield output


def frames(data: DataSet) -> Iterator[Frame]:
    """A data set as frames of raw readings that arrive when they are measured."""
    tags = np.arange(len(data.tags), dtype="<u2")
    for seq, first in enumerate(range(0, len(data.rows), ROWS_PER_FRAME)):
        rows = data.rows[first : first + ROWS_PER_FRAME]
        time_ns = np.repeat(np.array([row.source_time_ns for row in rows], "<i8"), len(tags))
        yield Frame(
            asset=data.asset,
            source="file",
            epoch=1,
            seq=seq,
            time_ns=int(time_ns[-1]),
            tags=data.tags,
            units=data.units,
            tag=np.tile(tags, len(rows)),
            source_time_ns=time_ns,
            server_time_ns=np.zeros(len(time_ns), "<i8"),
            arrival_time_ns=time_ns,
            value=np.array([row.values for row in rows], "<f8").ravel(),
            status=np.zeros(len(time_ns), "<u4"),
            mark=np.zeros(len(time_ns), "u1"),
        )


def judged(run: results.Run, settings: Settings, way: Sequence[str], merge_s: float) -> Scored:
    """Scores of the run where only these tests and alerts count."""
    against = Against(settings=settings, labels=labelled(), choice=choice(way), merge_s=merge_s, tags=TAGS)
    return score_run(run, against, plots=len(FILES) * len(TAGS))


if __name__ == "__main__":
    main()
