"""What all commands share: the configuration option, and errors that end a command in one clear line each."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import Consumer, KafkaException, TopicPartition
from rich.console import Console

from runtime import exit_codes
from runtime.config import Plant
from runtime.generations import at_work
from runtime.load import ConfigurationError, load

ConfigOption = Annotated[
    Path | None,
    typer.Option("--config", "-c", envvar="TWIN_CONFIG", help="Configuration; ./plant.toml where that exists."),
]
RunDirOption = Annotated[
    Path,
    typer.Option("--run-dir", envvar="TWIN_RUN_DIR", help="Data, logs and state of what runs on this machine."),
]
DEFAULT_RUN_DIR = Path(".twin")

#: A file or a pipe has no width of its own; 80 columns would cut tables.
PIPE_COLUMNS = 160
out = Console(width=None if sys.stdout.isatty() else PIPE_COLUMNS)
err = Console(stderr=True, width=None if sys.stderr.isatty() else PIPE_COLUMNS)


def config_path(path: Path | None) -> Path | None:
    """The configuration file to use, or None for the defaults."""
    default = Path("plant.toml")
    return path or (default if default.exists() else None)


def configuration(path: Path | None, role: str | None = "viewer") -> Plant:
    """The checked configuration with the secrets of `role`, a name in `runtime/acl.toml` (None: as whoever the
    environment says).

    Prints every problem and leaves with EX_CONFIG where there is one.
    """
    try:
        found = load(config_path(path))
    except ConfigurationError as error:
        for problem in error.problems:
            err.print(problem, style="red", markup=False, soft_wrap=True)
        raise typer.Exit(exit_codes.BAD_CONFIGURATION) from error
    return found if role is None else found.as_role(role)


def on_topics_at_work(plant: Plant) -> Plant:
    """The configuration for the topics that are at work, which after a rescale are not those of the file.

    Raises KafkaException, PlanError.
    """
    return plant.model_copy(update={"kafka": at_work(plant.kafka)})


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn expected errors into one red line and exit code 1."""
    try:
        yield
    except kinds as error:
        err.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(exit_codes.FAILED) from error


def use_environment_of(run_dir: Path, override: bool = False) -> None:
    """Take addresses of services that `twin up` started from its run directory, where the environment has none.

    `override`: take them in any case.
    """
    file = run_dir / "env"
    if file.exists():
        for line in file.read_text("utf-8").splitlines():
            key, _, value = line.partition("=")
            if override or key not in os.environ:
                os.environ[key] = value


def watermarks(consumer: Consumer, topic: str, partition: int, attempts: int = 20) -> tuple[int, int]:
    """First and next offset of a partition; patient while the broker elects a leader. Raises KafkaException."""
    while True:
        attempts -= 1
        try:
            low, high = consumer.get_watermark_offsets(TopicPartition(topic, partition), timeout=10)
            return int(low), int(high)
        except KafkaException:
            if not attempts:
                raise
            time.sleep(0.5)
