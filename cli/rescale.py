"""`twin rescale`: another number of partitions for a running system."""

import fcntl
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import KafkaException
from rich.table import Table

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
from cli.following import STAGES
from cli.lag import lag_of
from cli.moving import CopyFailed
from cli.processes import KAFKA, twin_command
from cli.rescaling import Rescale, RescaleError
from replay.mirror import NotDelivered, ends_of
from replay.sources.topic import SourceError
from runtime import exit_codes
from runtime.changelog import UnreadableRow
from runtime.config import Kafka
from runtime.generations import as_forced, newest
from runtime.kafka import TopicMismatch, TopicsMissing
from schemas.codec import DecodeError
from schemas.generations import Generation, Plan, PlanError
from schemas.topics import RAW
from services.processes import ask_to_stop, spawn
from services.rundir import RunDir

STOP_S = 15.0
LINE_EVERY_S = 5.0
ERRORS = (
    RescaleError, PlanError, CopyFailed, SourceError, NotDelivered, TopicMismatch, TopicsMissing, DecodeError,
    UnreadableRow, KafkaException,
)  # fmt: skip


def rescale(
    partitions: Annotated[int | None, typer.Option(help="How many partitions every topic is to have.")] = None,
    status: Annotated[bool, typer.Option("--status", help="Show what is at work and what is under way.")] = False,
    rollback: Annotated[bool, typer.Option("--rollback", help="Drop what is built; else go back to before.")] = False,
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Give a running system another number of partitions: nothing is lost, nothing comes twice, and it can be undone.

    Interrupted at any point, the same command goes on. It reads and writes every topic: where Kafka asks for rights, as
    its administrator (KAFKA_USERNAME, KAFKA_PASSWORD).
    """
    if (partitions is not None) + status + rollback != 1:
        err.print("allowed is one of --partitions N, --status and --rollback", style="red")
        raise typer.Exit(exit_codes.BAD_CONFIGURATION)
    use_environment_of(run_dir)
    kafka = configuration(config, "viewer" if status else None).kafka
    with one_line_errors(*ERRORS):
        if status:
            out.print(_table(kafka, newest(kafka) or Plan.initial(kafka.prefix, kafka.partitions)))
            return
        with _alone(run_dir), _Screen() as screen:
            agents = Agents(config_path(config), run_dir)
            run = Rescale(kafka, agents, screen.tell, screen.show)
            run.roll_back() if partitions is None else run.run(partitions)


class Agents:
    """The stages of the generation that is being built: the same programs, with their generation forced on them."""

    def __init__(self, config: Path | None, run_dir: Path) -> None:
        self._config, self._run_dir = config, run_dir
        self._generation: Generation | None = None
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, generation: Generation) -> None:
        """Start them; they die with this process."""
        self._generation = generation
        for stage in STAGES:
            self._start(stage)

    def tend(self) -> None:
        """Start again who left to be started again. Raises RescaleError where one failed."""
        for stage, process in self._running.items():
            code = process.poll()
            if code is not None and code != exit_codes.RESTART_ME:
                raise RescaleError(f"{stage} of the new generation ended with {code}; see {self._log(stage)}")
            if code is not None:
                self._start(stage)

    def stop(self) -> None:
        """All at once."""
        for process in self._running.values():
            ask_to_stop(process)
        end_s = time.monotonic() + STOP_S
        for process in self._running.values():
            try:
                process.wait(max(0.0, end_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self._running = {}

    def _start(self, stage: str) -> None:
        assert self._generation is not None
        env = {name: os.environ[name] for name in KAFKA if name in os.environ}
        if self._config is not None:
            env["TWIN_CONFIG"] = str(self._config)
        self._running[stage] = spawn(
            twin_command("agent", stage),
            log=self._log(stage),
            env=env | as_forced(self._generation),
            death_signal=signal.SIGKILL,
        )

    def _log(self, stage: str) -> Path:
        return RunDir(self._run_dir).log(f"rescale-{stage}")


class _Screen:
    """A line per thing done, and one that moves for what is being waited for; in a log a line every few seconds."""

    def __init__(self) -> None:
        self._moving = err.status("") if err.is_terminal else nullcontext()
        self._next_s = time.monotonic() + LINE_EVERY_S

    def __enter__(self) -> "_Screen":
        self._moving.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._moving.__exit__(None, None, None)

    def tell(self, text: str) -> None:
        """It is done."""
        err.print(f"{time.strftime('%H:%M:%S')} {text}", markup=False, highlight=False, soft_wrap=True)

    def show(self, text: str) -> None:
        """It is waited for."""
        if not isinstance(self._moving, nullcontext):
            self._moving.update(text)
        elif time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + LINE_EVERY_S
            self.tell(text)


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """One rescale per run folder at a time. Raises RescaleError."""
    run_dir.mkdir(parents=True, exist_ok=True)
    with (run_dir / "rescale.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RescaleError(f"another `twin rescale` works in {run_dir}") from error
        yield


def _table(kafka: Kafka, plan: Plan) -> Table:
    table = Table("what", "is")
    table.add_row("at work", str(plan.active))
    table.add_row("phase", plan.phase)
    if plan.reason:
        table.add_row("reason", plan.reason)
    if plan.target is not None:
        table.add_row("being left for" if plan.phase == "returning" else "being built", str(plan.target))
        if plan.phase in ("verifying", "switching"):
            new = kafka.at(plan.target)
            table.add_row("lag of its stages", ", ".join(f"{stage} {lag_of(new, stage)}" for stage in STAGES))
    if plan.previous is not None:
        table.add_row("for a rollback", str(plan.previous))
        table.add_row("came there after the switch", f"{_late(kafka, plan)} frames")
    return table


def _late(kafka: Kafka, plan: Plan) -> int:
    """Frames that Kafka took into the previous raw topic although it was closed; there must be none."""
    assert plan.previous is not None
    ends = ends_of(kafka.at(plan.previous), RAW)
    return sum(max(0, end - noted) for end, noted in zip(ends, plan.written_from[RAW.name], strict=True))
