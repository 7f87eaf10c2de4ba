"""`twin agent validation|estimation|twin|sink`: one stage, until SIGTERM."""

from importlib import import_module
from typing import Annotated, Literal

import typer

from cli.common import ConfigOption, configuration
from runtime import logs

Stage = Literal["validation", "estimation", "twin", "sink"]


def agent(
    stage: Annotated[Stage, typer.Argument(help="Which stage.")],
    config: ConfigOption = None,
) -> None:
    """Run one stage of the stream: validation, estimation, twin or sink."""
    plant = configuration(config, stage)
    logs.configure(stage)
    raise typer.Exit(import_module(f"agents.{stage}").run(plant))
