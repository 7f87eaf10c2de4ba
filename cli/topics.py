"""`twin topics`: the table of topics, made, shown and moved."""

from typing import Annotated

import typer
from confluent_kafka import KafkaException
from rich.table import Table

from cli import moving
from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    configuration,
    one_line_errors,
    out,
    use_environment_of,
)
from cli.moving import MoveError
from runtime.changelog import UnreadableRow
from runtime.generations import PlanError, at_work
from runtime.kafka import TopicMismatch, TopicsMissing, check_topics, create_topics
from schemas.topics import DAY_MS, TOPICS

app = typer.Typer(help="Make, show and move the topics.", no_args_is_help=True)


@app.command()
def create(config: ConfigOption = None, run_dir: RunDirOption = DEFAULT_RUN_DIR) -> None:
    """Create the topics that are missing; an error where one has another number of partitions."""
    use_environment_of(run_dir)
    kafka = configuration(config, "topics").kafka
    with one_line_errors(TopicMismatch, TopicsMissing, KafkaException, PlanError):
        kafka = at_work(kafka)
        made = create_topics(kafka)
    out.print(f"{len(made)} topics created, {len(TOPICS) - len(made)} were there ({kafka.address})", highlight=False)


@app.command()
def move(
    from_prefix: Annotated[str, typer.Argument(help="kafka.prefix of the stopped system to carry over.")],
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Carry a stopped system over to the configured kafka.prefix and kafka.partitions, both of which may be new.

    It reads and writes every topic: where Kafka asks for rights, as its administrator (KAFKA_USERNAME, KAFKA_PASSWORD).
    """
    use_environment_of(run_dir)
    kafka = configuration(config, None).kafka
    with one_line_errors(MoveError, TopicMismatch, KafkaException, UnreadableRow, PlanError):
        moved = moving.move(at_work(kafka.model_copy(update={"prefix": from_prefix})), kafka)
    for name, records in moved.items():
        out.print(f"{records:>10} records to {name}", highlight=False)


@app.command("list")
def show(config: ConfigOption = None, run_dir: RunDirOption = DEFAULT_RUN_DIR) -> None:
    """Show the table of topics, and which of them exist."""
    use_environment_of(run_dir)
    kafka = configuration(config).kafka
    with one_line_errors(TopicMismatch, KafkaException, PlanError):
        kafka = at_work(kafka)
        existing = check_topics(kafka)
    table = Table("topic", "record", "kept", "written by", "read by", "exists")
    for topic in TOPICS:
        name = topic.full_name(kafka.prefix)
        kept = "compacted" if topic.retention_ms is None else f"{topic.retention_ms // DAY_MS} d"
        there = "yes" if name in existing else "no"
        table.add_row(name, topic.record.schema, kept, ", ".join(topic.writers), ", ".join(topic.readers), there)
    out.print(table)
