"""`twin up|down|status|env`: the whole system on one machine, under a supervisor."""

import json
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import KafkaException
from rich.live import Live
from rich.markup import escape
from rich.table import Column, Table

from cli import lag
from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    config_path,
    configuration,
    err,
    one_line_errors,
    out,
    use_environment_of,
)
from cli.processes import external_addresses, processes, topics_command
from runtime.generations import PlanError
from services import supervisor
from services.errors import ServiceError
from services.spec import SupervisorState


def up(
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    foreground: Annotated[bool, typer.Option("--foreground", help="Stay, until Ctrl-C.")] = False,
) -> None:
    """Start services, connectors and agents; restart what dies. Services of your own are named in the configuration."""
    plant = configuration(config)
    with one_line_errors(ServiceError):
        begin(config_path(config), run_dir, foreground)
    if not foreground:
        out.print(
            f"up: {len(processes(plant, run_dir))} processes, logs in {run_dir / 'logs'}; `twin status` shows them"
        )


def begin(config: Path | None, run_dir: Path, foreground: bool = False) -> dict[str, str]:
    """Start everything and return the addresses when all is ready. Raises ServiceError."""
    plant = configuration(config)
    said: set[str] = set()

    def progress(state: SupervisorState) -> None:
        for process in state.processes:
            if process.ready and process.name not in said:
                said.add(process.name)
                err.print(f"  ready: {process.name}", style="dim", highlight=False)

    return supervisor.up(
        config,
        run_dir,
        processes(plant, run_dir),
        external_addresses(plant),
        foreground,
        init=(topics_command(),),
        on_progress=progress,
    )


def down(run_dir: RunDirOption = DEFAULT_RUN_DIR) -> None:
    """Stop everything that `twin up` started: connectors first, then agents, then services."""
    with one_line_errors(ServiceError):
        report = supervisor.down(run_dir)
    if report.was_running:
        out.print(f"down: {len(report.processes)} processes stopped")
    else:
        out.print(f"nothing was running in {run_dir}" + "".join(f"; ended {name}" for name in report.left_behind))


def status(
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per process.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Again every second, until Ctrl-C.")] = False,
) -> None:
    """Show each process with state, lag in frames and rate in readings per second."""
    plant = configuration(config)
    use_environment_of(run_dir)
    with one_line_errors(ServiceError, KafkaException, PlanError):
        rows = lag.snapshot(run_dir, plant.kafka)
        if as_json:
            for row in rows:
                typer.echo(json.dumps(row.as_dict()))
        elif watch:
            with Live(_table(rows), console=out, refresh_per_second=2) as live:
                while True:
                    live.update(_table(lag.snapshot(run_dir, plant.kafka)))
        else:
            out.print(_table(rows) if rows else f"nothing was ever started in {run_dir}")


def env(run_dir: RunDirOption = DEFAULT_RUN_DIR) -> None:
    """Print the addresses as KEY=value lines for other programs."""
    with one_line_errors(ServiceError):
        for key, value in supervisor.env(run_dir).items():
            typer.echo(f"{key}={value}")


def _table(rows: list[lag.Row]) -> Table:
    table = Table(
        Column("process", no_wrap=True),
        Column("state", no_wrap=True),
        "pid",
        "up s",
        "restarts",
        "CPU %",
        "MiB",
        "lag frames",
        "readings/s",
        "healthy",
    )
    for row in rows:
        table.add_row(
            row.name,
            row.state,
            str(row.pid or "–"),
            f"{row.uptime_s:.0f}",
            str(row.restarts),
            f"{row.cpu_percent:.1f}",
            f"{row.rss_mib:.0f}",
            "–" if row.lag_frames is None else str(row.lag_frames),
            "–" if row.readings_per_s is None else f"{row.readings_per_s:.0f}",
            escape(row.trouble) or {None: "–", True: "yes", False: "NO"}[row.healthy],
        )
    return table
