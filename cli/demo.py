"""`twin demo`: the whole system on a simulated plant, shown live, then audited reading by reading."""

import json
import platform
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import psutil
import typer
from confluent_kafka import Consumer, KafkaException
from rich.live import Live

from audit.compare import Report, compare
from audit.store import Database, StoreError
from cli import lag
from cli.common import configuration, err, on_topics_at_work, one_line_errors, out, use_environment_of
from cli.live import Reader, view
from cli.local import begin
from cli.processes import processes, twin_command
from queries.api import Queries, QueryError
from runtime import exit_codes
from runtime.config import Kafka, Plant
from runtime.kafka import client_settings, watermarks
from schemas.topics import REJECTED
from services import supervisor
from services.errors import ServiceError

CONFIG = Path(__file__).parent.parent / "plant" / "demo.toml"
PATIENCE_S = 30.0
#: Tells a folder that was made here from one that holds what nobody else has.
MARKER = "emptied-by-twin-demo"
PACKAGES = (
    "process-twin", "confluent-kafka", "faust-streaming", "aiokafka", "asyncua", "paho-mqtt", "numpy", "numba",
    "fastavro",
)  # fmt: skip


def demo(
    seconds: Annotated[float | None, typer.Option(min=5.0, help="Stop, audit and report after that time.")] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as JSON.")] = None,
    config: Annotated[Path, typer.Option("--config", "-c", help="Configuration of the demo.")] = CONFIG,
    run_dir: Annotated[Path, typer.Option(help="Folder of the demo; that of an earlier one is emptied.")] = Path(
        ".twin/demo"
    ),
) -> None:
    """Start everything and a plant of 3 reactors with faults, show it live, compare what was sent with the store."""
    with one_line_errors(ServiceError, KafkaException, StoreError, QueryError):
        _make_empty(run_dir)
        try:
            begin(config, run_dir)
            use_environment_of(run_dir, override=True)
            found = _run(configuration(config), config, run_dir, seconds)
        finally:
            supervisor.down(run_dir)
    if report is not None:
        report.write_text(json.dumps(found, indent=2, ensure_ascii=False) + "\n", "utf-8")
        err.print(f"report: {report}", highlight=False)
    readings = found["readings"]
    out.print_json(json.dumps({key: found[key] for key in ("readings", "quality", "latency_ms", "cpu_cores_used")}))
    if readings["missing"] or readings["repeated"] or readings["altered"] or not readings["stored"]:
        raise typer.Exit(exit_codes.FAILED)


def _make_empty(run_dir: Path) -> None:
    """Make the folder, or stop and delete an earlier demo in it. Raises ServiceError where it has anything else."""
    is_ours = (run_dir / MARKER).exists()
    if not is_ours and run_dir.exists() and not (run_dir.is_dir() and not any(run_dir.iterdir())):
        raise ServiceError(f"{run_dir} is no folder of a demo, and left as it is; empty it, or use another --run-dir")
    if is_ours:
        supervisor.down(run_dir)
        shutil.rmtree(run_dir, ignore_errors=True)
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / MARKER).touch()


def _run(plant: Plant, config: Path, run_dir: Path, seconds: float | None) -> dict[str, Any]:
    journal = run_dir / "journal.jsonl"
    pids = _pids(plant, run_dir)
    plant = on_topics_at_work(plant)
    cpu_before, began = _cpu_s(pids), time.monotonic()
    with (run_dir / "logs" / "plant.log").open("wb") as log:
        arguments = ["--run-dir", str(run_dir), "--config", str(config), "--journal", str(journal)]
        if seconds is not None:
            arguments += ["--seconds", str(seconds)]
        running = subprocess.Popen(twin_command("plant", "run", *arguments), stdout=log, stderr=log)
    try:
        _watch(plant, run_dir, journal, running, seconds)
    except KeyboardInterrupt:
        err.print("stopping the plant, then comparing what it sent with what is stored")
    finally:
        if running.poll() is None:
            running.send_signal(signal.SIGTERM)
        failed = running.wait(timeout=60) != 0
    if failed or not journal.exists():
        raise ServiceError(f"the plant failed; see {run_dir / 'logs' / 'plant.log'}")
    cpu_cores = (_cpu_s(pids) - cpu_before) / (time.monotonic() - began)
    err.print("comparing every reading sent with what InfluxDB holds …", style="dim")
    return _report(plant, journal, cpu_cores)


def _watch(plant: Plant, run_dir: Path, journal: Path, running: subprocess.Popen[bytes], seconds: float | None) -> None:
    """Draw the table until the plant ends; on something that is no terminal, a line every five seconds."""
    reader = Reader(plant.kafka, journal)
    reader.start()
    began = time.monotonic()
    last_line = began
    rows: list[lag.Row] = []
    try:
        with Live(console=out, refresh_per_second=2, transient=True) as live:
            while running.poll() is None:
                with suppress(KafkaException):  # the table is old for a moment; the audit is what counts
                    rows = lag.snapshot(run_dir, plant.kafka)
                of = "" if seconds is None else f" of {seconds:g}"
                headline = f"process-twin demo, {time.monotonic() - began:.0f}{of} s; Ctrl-C stops and audits"
                if out.is_terminal:
                    live.update(view(reader.seen, rows, headline))
                elif time.monotonic() - last_line >= 5.0:
                    last_line = time.monotonic()
                    err.print(f"{headline}; readings {reader.seen.grades}", highlight=False, soft_wrap=True)
    finally:
        reader.stop()
    if out.is_terminal:
        out.print(view(reader.seen, rows, "at the end"))


def _report(plant: Plant, journal: Path, cpu_cores: float) -> dict[str, Any]:
    influxdb = plant.influxdb
    database = Database(url=influxdb.address, bucket=influxdb.bucket_name, token=influxdb.token)
    found: Report = compare(database, [journal], patience_s=PATIENCE_S)
    assets = sorted({json.loads(line)["asset"] for line in journal.open("rb")})
    with Queries(influxdb) as queries:
        twins = {asset: queries.state(asset) for asset in assets}
    return {
        **found.as_dict(rejected=_count(plant.kafka)),
        "twin": twins,
        "cpu_cores_used": round(cpu_cores, 3),
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            "kafka": "4.1.0",
            "influxdb": "2.7.12",
        },
    }


def _count(kafka: Kafka) -> int:
    """Records in the topic of rejected ones, which in a demo's own Kafka are all of this run."""
    consumer = Consumer({**client_settings(kafka), "group.id": "twin-demo"})
    name = REJECTED.full_name(kafka.prefix)
    marks = [watermarks(consumer, name, p) for p in range(kafka.partitions)]
    consumer.close()
    return sum(high - low for low, high in marks)


def _pids(plant: Plant, run_dir: Path) -> list[int]:
    names = {p.name for p in processes(plant, run_dir)}
    return [p.pid for p in supervisor.status(run_dir) if p.name in names and p.pid is not None]


def _cpu_s(pids: list[int]) -> float:
    total = 0.0
    for pid in pids:
        try:
            times = psutil.Process(pid).cpu_times()
        except psutil.NoSuchProcess:  # restarted meanwhile; what it used is not counted
            continue
        total += times.user + times.system
    return total
