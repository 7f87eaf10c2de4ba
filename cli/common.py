"""What all commands share: the configuration option, and errors that end a command in one clear line each."""

import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.text import Text

from runtime import exit_codes
from runtime.config import ConfigurationError, Influxdb, Mqtt, Opcua, Plant, port
from runtime.generations import at_work
from runtime.load import load

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


def printable(text: str) -> str:
    """Text from the field, fit for a terminal and for JSON: what is not printable is escaped as JSON does."""
    return text if text.isprintable() else "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def cells(*texts: str) -> list[Text]:
    """Cells of a table, with texts from the field: as they are, since a bracket would be a style."""
    return [Text(printable(text)) for text in texts]


def config_path(path: Path | None) -> Path | None:
    """The configuration file to use, or None for the defaults."""
    default = Path("plant.toml")
    return path or (default if default.exists() else None)


def configuration(path: Path | None, role: str | None = "viewer") -> Plant:
    """The checked configuration with the secrets of `role`, a name in `runtime/acl.toml` (None: as whoever the
    environment says).

    Raises ConfigurationError, also where the environment cannot be used; `cli.main` ends the command with its lines.
    """
    found = load(config_path(path))
    found = found if role is None else found.as_role(role)
    _ = found.kafka.protocol, _addresses(found, role)  # for their errors: later there may be nobody to tell
    return found


def _addresses(plant: Plant, role: str | None) -> list[object]:
    """Where a connector or an agent connects to, and where it listens. Raises ConfigurationError."""
    peers: dict[str, Sequence[Mqtt | Opcua | Influxdb]] = {
        "connector.mqtt": plant.mqtt,
        "connector.opcua": plant.opcua,
        "sink": (plant.influxdb,),
    }
    if role not in (*peers, "validation", "estimation", "twin"):
        return []  # a command takes addresses when it needs them, perhaps from a run folder
    return [plant.kafka.address, *(peer.address for peer in peers.get(role, ())), port("TWIN_METRICS_PORT", 0)]


def on_topics_at_work(plant: Plant) -> Plant:
    """The configuration for the topics that are at work, which after a rescale are not those of the file.

    Raises KafkaException, PlanError.
    """
    return plant.model_copy(update={"kafka": at_work(plant.kafka)})


@contextmanager
def one_line_errors(*kinds: type[Exception]) -> Iterator[None]:
    """Turn expected errors into one red line and exit code 1; but a ConfigurationError is for `cli.main`."""
    try:
        yield
    except ConfigurationError:
        raise
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
