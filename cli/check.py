"""`twin check`: every problem of a configuration at once."""

from pathlib import Path
from typing import Annotated

import typer

from cli.common import configuration, out


def check(file: Annotated[Path, typer.Argument(help="A configuration file.")]) -> None:
    """Check a configuration: every problem at once, with file, key, value and what is allowed."""
    found = configuration(file)
    connectors = ", ".join([m.id for m in found.mqtt] + [o.id for o in found.opcua])
    out.print(f"{file}: good ({connectors}; {found.kafka.partitions} partitions)", highlight=False)
