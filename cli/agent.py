"""`twin agent validation|estimation|twin|sink`: one stage, until SIGTERM."""

from importlib import import_module
from typing import Annotated, Literal

import typer
from confluent_kafka import KafkaException

from cli.common import ConfigOption, configuration, one_line_errors
from runtime import logs, metrics
from runtime.kafka import TopicMismatch, check_topics

Stage = Literal["validation", "estimation", "twin", "sink"]


def agent(
    stage: Annotated[Stage, typer.Argument(help="Which stage.")],
    config: ConfigOption = None,
) -> None:
    """Run one stage of the stream: validation, estimation, twin or sink."""
    plant = configuration(config)
    logs.configure(stage)
    metrics.serve()
    with one_line_errors(TopicMismatch, KafkaException):
        check_topics(plant.kafka)
    raise typer.Exit(import_module(f"agents.{stage}").run(plant))
