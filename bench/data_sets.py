"""The data sets of `plant/data` through the whole system: is every value stored to the bit, and what was made of them.

    .venv/bin/python -m bench.data_sets [--speed 600] [--report data_sets.json]

Tennessee Eastman at `--speed` times real speed (288 s at 600) and NAB as fast as the system takes it, by MQTT and by
OPC UA at the same time, on real services. Exits non-zero if a reading is missing, repeated or altered.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
from rich.console import Console
from rich.table import Table

from audit.compare import compare
from audit.store import Database
from cli.common import configuration, use_environment_of
from cli.local import begin
from cli.processes import twin_command
from plant import datasets
from queries.api import Queries
from runtime.config import Plant
from schemas.quality import Flag
from services import supervisor

CONFIG = Path(datasets.__file__).parent / "datasets.toml"
EASTMAN = sorted((datasets.DIRECTORY / "tennessee_eastman").glob("*.dat"))
NAB = datasets.DIRECTORY / "nab" / "machine_temperature_system_failure.csv"
#: Reactor pressure, level, temperature, cooling water outlet temperature, cooling water flow.
SCORED_TAGS = ("xmeas_07", "xmeas_08", "xmeas_09", "xmeas_21", "xmv_10")
PROTOCOLS = ("mqtt", "opcua")


def main() -> int:
    """Run, print, write the report; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--speed", type=float, default=600.0, help="Tennessee Eastman, times real speed")
    parser.add_argument("--report", type=Path, default=None)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="twin-data-sets-") as folder:
        found = run(Path(folder), arguments.speed)
    if arguments.report is not None:
        arguments.report.write_text(json.dumps(found, indent=2) + "\n", "utf-8")
    show(found)
    return int(any(found["readings"][kind] for kind in ("missing", "repeated", "altered")))


def run(run_dir: Path, speed: float) -> dict[str, Any]:
    """Start the system in `run_dir`, play everything, compare and score."""
    try:
        begin(CONFIG, run_dir)
        use_environment_of(run_dir, override=True)
        journals = [
            *_play(run_dir, EASTMAN, "eastman", speed),
            *_play(run_dir, [NAB], "nab", 0.0),
        ]
        plant = configuration(CONFIG)
        influxdb = plant.influxdb
        database = Database(url=influxdb.address, bucket=influxdb.bucket_name, token=influxdb.token)
        report = compare(database, journals, patience_s=30.0)
        return {**report.as_dict(), "flags": _flags(plant)}
    finally:
        supervisor.down(run_dir)


def _play(run_dir: Path, files: list[Path], name: str, speed: float) -> list[Path]:
    """Play by both protocols at once and return the journals. Raises CalledProcessError."""
    journals = [run_dir / f"{name}-{protocol}.jsonl" for protocol in PROTOCOLS]
    playing = []
    for protocol, journal in zip(PROTOCOLS, journals, strict=True):
        command = twin_command("plant", "play", *map(str, files), "--protocol", protocol, "--speed", str(speed))
        options = ["--suffix", f"-{protocol}", "--journal", str(journal), "--run-dir", str(run_dir), "-c", str(CONFIG)]
        playing.append(subprocess.Popen((*command, *options), stdout=subprocess.DEVNULL))
    for process in playing:
        if process.wait() != 0:
            raise subprocess.CalledProcessError(process.returncode, process.args)
    return journals


def _flags(plant: Plant) -> list[dict[str, Any]]:
    """Per data set and tag: share of readings flagged outside and inside the labelled time, first flag inside it."""
    rows = []
    with Queries(plant.influxdb) as queries:
        for path in [*EASTMAN, NAB]:
            data = datasets.load(path)
            tags = SCORED_TAGS if path != NAB else data.tags
            labels = [(r.source_time_ns, r.source_time_ns) for r in data.rows if r.fault is not None]
            for tag in tags:
                start, stop = data.rows[0].source_time_ns, data.rows[-1].source_time_ns + 1_000
                stored = queries.range(f"{data.asset}-mqtt", tag, start, stop)
                rows.append({"data_set": data.asset, "tag": tag, **_score(stored, labels)})
    return rows


def _score(stored: pd.DataFrame, labels: list[tuple[int, int]]) -> dict[str, Any]:
    times = stored.index.as_unit("ns").asi8
    labelled = pd.Index(times).isin([start for start, _ in labels])
    flagged = stored["flag"].isin([int(Flag.SUSPECT), int(Flag.FAIL)]).to_numpy()
    hits = times[flagged & labelled]
    steps = stored["value"].diff().dropna()
    smooth = stored["estimate"].diff().dropna()
    return {
        "readings": len(stored),
        "flagged_outside": int((flagged & ~labelled).sum()),
        "outside": int((~labelled).sum()),
        "flagged_inside": int((flagged & labelled).sum()),
        "inside": int(labelled.sum()),
        "detected_after_h": round((hits[0] - labels[0][0]) / 3.6e12, 2) if len(hits) and labels else None,
        "roughness": round(float(smooth.std() / steps.std()), 3),
        "nis_mean": round(float(stored["nis"].mean()), 2),
    }


def show(found: dict[str, Any]) -> None:
    """The report as two tables."""
    console = Console(width=140)
    console.print({kind: count for kind, count in found["readings"].items() if count is not None})
    table = Table("data set", "tag", "readings", "flagged outside", "flagged inside", "first flag", "roughness", "NIS")
    for row in found["flags"]:
        after = "–" if row["detected_after_h"] is None else f"{row['detected_after_h']} h"
        table.add_row(
            row["data_set"],
            row["tag"],
            str(row["readings"]),
            f"{row['flagged_outside']} of {row['outside']}",
            f"{row['flagged_inside']} of {row['inside']}",
            after,
            str(row["roughness"]),
            str(row["nis_mean"]),
        )
    console.print(table)


if __name__ == "__main__":
    sys.exit(main())
