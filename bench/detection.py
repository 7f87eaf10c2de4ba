"""What the kernels detect in the data sets of `plant/data`, and what they do not.

    .venv/bin/python -m bench.detection [--params found.toml] [--merge-h H] [--tags] [--report x.json] [--html x.html]

Plays NAB and Tennessee Eastman files through validation, estimation and twin, without services, and scores them: NAB
against its labels, the faults against their start row (161), the normal file for false alarms; of Tennessee Eastman the
reactor's five tags. `--params`: settings to merge over `plant/datasets.toml`, as `twin fit` writes them from the run
that `--keep` leaves; what it finds on the normal file (TE00) holds for all of Tennessee Eastman.

    .venv/bin/python -m bench.detection --keep runs/files
    .venv/bin/twin fit runs/files -c plant/datasets.toml --assets TE00 --no-reactor --out te.toml \\
        --tags xmeas_07,xmeas_08,xmeas_09,xmeas_21,xmv_10
    .venv/bin/twin fit runs/files -c plant/datasets.toml --assets NAB --no-reactor --out nab.toml \\
        --to 2013-12-10T06:25:00Z
    cat te.toml nab.toml > found.toml
"""

import argparse
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from cli import scoring
from kernels.stage import Settings, fold
from kernels.stages import STAGES
from plant import datasets
from plant.datasets import DataSet
from replay import labels, results
from replay.labels import Detection
from replay.page import Plot, Table, page
from replay.plots import series_plot
from replay.raw import Raw
from replay.score import score_run
from replay.score_tables import number, percent, span
from replay.scores import Against, Scored
from replay.signals import choice
from replay.tables import Folder
from schemas.frames import Frame

CONFIG = Path(datasets.__file__).parent / "datasets.toml"
FILES = (
    *sorted((datasets.DIRECTORY / "tennessee_eastman").glob("*.dat")),
    datasets.DIRECTORY / "nab" / "machine_temperature_system_failure.csv",
)
LABELS = tuple(sorted(datasets.DIRECTORY.glob("*/labels.csv")))
#: Reactor pressure, level, temperature, cooling water outlet temperature, cooling water flow; NAB's one temperature.
TAGS = ("xmeas_07", "xmeas_08", "xmeas_09", "xmeas_21", "xmv_10", "temperature")
#: What is asked for one by one: each alone, and together.
WAYS: tuple[tuple[str, ...], ...] = (
    ("drift",), ("nis_gate",), ("zscore",), ("spike",), ("alert:nis_inconsistent",),
    ("drift", "nis_gate", "zscore", "spike"),
)  # fmt: skip
ROWS_PER_FRAME = 20
NORMAL = "TE00"


def main() -> None:
    """Play, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--params", type=Path, default=None, help="settings to merge over plant/datasets.toml")
    parser.add_argument("--merge-h", type=float, default=1.0, help="signals at most so many hours apart are one alarm")
    parser.add_argument("--keep", type=Path, default=None, help="leave the run in this folder, which must be new")
    parser.add_argument("--tags", action="store_true", help="print a table per way with every tag")
    parser.add_argument("--report", type=Path, default=None, help="write all figures as JSON")
    parser.add_argument("--html", type=Path, default=None, help="write a page with plots")
    arguments = parser.parse_args()
    settings = shared(scoring.settings_of(CONFIG, arguments.params))
    with tempfile.TemporaryDirectory(prefix="twin-detection-") as folder:
        run = play(arguments.keep or Path(folder), settings)
        ways = {way: judged(run, settings, way, arguments.merge_h * 3600.0) for way in WAYS}
    Console(width=150).print(
        f"parameters: {arguments.params or CONFIG.name}; alarms within {arguments.merge_h:g} h are one"
    )
    told = [summary(ways), *(tags(way, scored) for way, scored in ways.items())]
    for one in told if arguments.tags else told[:1]:
        scoring.show(one)
    if arguments.report is not None:
        found = {" + ".join(way): {"assets": s.assets, "tags": s.tags} for way, s in ways.items()}
        scoring.write_json(arguments.report, found)
    if arguments.html is not None:
        arguments.html.write_text(drawn(ways[WAYS[-1]], told, str(arguments.params)), "utf-8")


def shared(settings: Settings) -> Settings:
    """The same, but what holds for the normal Tennessee Eastman file holds for those with a fault."""

    def of(asset: str) -> str:
        return NORMAL if asset.startswith("TE") else asset

    return replace(settings, tag=lambda asset, tag: settings.tag(of(asset), tag))


def play(folder: Path, settings: Settings) -> results.Run:
    """All files through the kernels, as a run in `folder`. Raises FileExistsError where one is there."""
    if (folder / "readings").exists():
        raise FileExistsError(f"{folder}: there is a run already")
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
    windows = [window for path in LABELS for window in labels.read(path)]
    against = Against(settings=settings, labels=windows, choice=choice(way), merge_s=merge_s, tags=TAGS)
    return score_run(run, against, plots=len(FILES) * len(TAGS))


def summary(ways: Mapping[tuple[str, ...], Scored]) -> Table:
    """Each way of detecting, per asset: what it finds, what it misses and what that costs in false alarms."""
    rows = []
    for way, scored in ways.items():
        for a in scored.assets:
            d = a.detection
            if d is not None:
                rows.append([" + ".join(way), a.asset, *_figures(d), number(d.outside_days, 3), percent(d.by_chance)])
    return Table(
        title="Detection",
        columns=("signals", "asset", *FIGURES, "days outside", "recall by chance %"),
        rows=rows,
        words=2,
        note=NOTE,
    )


def tags(way: Sequence[str], scored: Scored) -> Table:
    """What one way of detecting comes to, per tag."""
    rows = [
        [t.asset, t.tag, *_figures(t.detection), number(t.nis.mean, 3), t.nis.verdict]
        for t in scored.tags
        if t.detection is not None
    ]
    return Table(
        title=" + ".join(way), columns=("asset", "tag", *FIGURES, "mean NIS", "noise"), rows=rows, words=2, note=NOTE
    )


NOTE = "First signal after: – is a window that was missed, * one in which an alarm was on already when it began."
FIGURES = ("detected", "first signal after", "false alarms", "per day", "precision %")


def _figures(d: Detection) -> list[str]:
    if d.windows:
        detected = f"{d.detected} of {len(d.windows)}"
        delays = ", ".join(span(w.delay_s) + ("*" if w.already_on else "") for w in d.windows)
    else:
        detected, delays = "no fault", ""
    return [detected, delays, str(d.false_alarms), number(d.false_alarms_per_day, 3), percent(d.precision)]


def drawn(scored: Scored, told: Sequence[Table], params: str) -> str:
    """A page with all tables and plots."""
    plots = [Plot(f"{s.asset} {s.tag}", series_plot(s, f"p{i}")) for i, s in enumerate(scored.series)]
    provenance = {"configuration": {"file": CONFIG.name, "params": params}}
    return page("Detection in the data sets", [NOTE], told, plots, provenance)


if __name__ == "__main__":
    main()
