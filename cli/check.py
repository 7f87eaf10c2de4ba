"""`twin check`: every problem of a configuration at once."""

from pathlib import Path
from typing import Annotated

import typer

from cli.common import configuration, err, out
from kernels.models.model import ParameterError
from kernels.twin_params import asset_model
from runtime import exit_codes
from runtime.config import Plant
from runtime.patterns import named, together


def check(file: Annotated[Path, typer.Argument(help="A configuration file.")]) -> None:
    """Check a configuration: every problem at once, with file, key, value and what is allowed."""
    found = configuration(file)
    problems = model_problems(found)
    for problem in problems:
        err.print(f"{file}: {problem}", style="red", markup=False, highlight=False, soft_wrap=True)
    if problems:
        raise typer.Exit(exit_codes.BAD_CONFIGURATION)
    connectors = ", ".join([m.id for m in found.mqtt] + [o.id for o in found.opcua])
    out.print(f"{file}: good ({connectors}; {found.kafka.partitions} partitions)", highlight=False)


def model_problems(plant: Plant) -> list[str]:
    """What only the models know: parameters and inputs that they do not have, or that are out of range."""
    problems: list[str] = []
    blamed: list[set[str]] = []
    for group, name in together(plant.assets):
        problem = None if any(fewer <= set(group) for fewer in blamed) else _problem(plant, name)
        if problem is not None:
            blamed.append(set(group))
            problems.append(f"{named('assets', group)}: {problem}")
    return problems


def _problem(plant: Plant, asset: str) -> str | None:
    try:
        asset_model(plant.asset(asset).model_dump())
    except ParameterError as error:
        return str(error)
    return None
