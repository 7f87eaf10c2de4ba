"""`twin agent validation|estimation|twin|sink`: one stage, until SIGTERM."""

from importlib import import_module
from typing import Annotated, Literal

import typer

from cli.common import ConfigOption, config_path, configuration
from runtime import logs
from runtime.config import ConfigurationError

Stage = Literal["validation", "estimation", "twin", "sink"]


def agent(
    stage: Annotated[Stage, typer.Argument(help="Which stage.")],
    config: ConfigOption = None,
) -> None:
    """Run one stage of the stream: validation, estimation, twin or sink."""
    plant = configuration(config, stage)
    if stage == "twin":
        from cli.check import model_problems  # the others need no models

        if problems := model_problems(plant):
            raise ConfigurationError([f"{config_path(config)}: {problem}" for problem in problems])
    logs.configure(stage)
    raise typer.Exit(import_module(f"agents.{stage}").run(plant))
