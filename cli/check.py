"""`twin check`: every problem of a configuration at once."""

from pathlib import Path
from typing import Annotated

import typer

from cli.common import configuration, err, out
from kernels.models.model import ParameterError
from kernels.twin_params import asset_model
from runtime import exit_codes
from runtime.config import Plant
from runtime.patterns import named, problems


def check(file: Annotated[Path, typer.Argument(help="A configuration file.")]) -> None:
    """Check a configuration: every problem at once, with file, key, value and what is allowed."""
    found = configuration(file)
    wrong = model_problems(found)
    for problem in wrong:
        err.print(f"{file}: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    if wrong:
        raise typer.Exit(exit_codes.BAD_CONFIGURATION)
    connectors = ", ".join([m.id for m in found.mqtt] + [o.id for o in found.opcua])
    out.print(f"{file}: good ({connectors}; {found.kafka.partitions} partitions)", highlight=False)


def model_problems(plant: Plant) -> list[str]:
    """What only the models know: parameters and inputs that they do not have, or that are out of range."""

    def look(group: tuple[str, ...], asset: str) -> list[str]:
        try:
            asset_model(plant.asset(asset).model_dump())
        except ParameterError as error:
            return [f"{named('assets', group)}: {error}"]
        return []

    return problems(plant.assets, look)
