"""`twin`: the command line. One function per command; groups live in files of their own."""

from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import KafkaException

from cli import agent, connector, local, plant, query, topics
from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    config_path,
    configuration,
    one_line_errors,
    out,
    use_environment_of,
)

app = typer.Typer(
    help="process-twin: a digital twin for process plants that lives on Kafka.",
    no_args_is_help=True,
    pretty_exceptions_show_locals=False,  # a local could hold a secret
    add_completion=False,
)
app.add_typer(connector.app, name="connector")
app.command()(agent.agent)
app.add_typer(topics.app, name="topics")
app.add_typer(query.app, name="query")
app.add_typer(plant.app, name="plant")
local.register(app)


@app.command()
def check(file: Annotated[Path, typer.Argument(help="A configuration file.")]) -> None:
    """Check a configuration: every problem at once, with file, key, value and what is allowed."""
    found = configuration(file)
    connectors = ", ".join([m.id for m in found.mqtt] + [o.id for o in found.opcua])
    out.print(f"{file}: good ({connectors}; {found.kafka.partitions} partitions)", highlight=False)


@app.command()
def tail(
    topic: Annotated[str, typer.Argument(help="raw, validated, estimates, state, alerts, rejected, or a changelog.")],
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    asset: Annotated[str | None, typer.Option(help="Only this asset.")] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="From the oldest record, not the newest.")] = False,
    seconds: Annotated[float | None, typer.Option(help="Stop after that many seconds.")] = None,
) -> None:
    """Show a topic decoded, one JSON object per line."""
    from cli.tail import NoSuchTopic
    from cli.tail import tail as lines

    use_environment_of(run_dir)
    with one_line_errors(NoSuchTopic, KafkaException):
        for line in lines(configuration(config_path(config)).kafka, topic, asset, from_start, seconds):
            typer.echo(line)


@app.command()
def browse(
    url: Annotated[str, typer.Argument(help="opc.tcp://host:port")],
    config: ConfigOption = None,
    write: Annotated[Path | None, typer.Option(help="Write a tag file to start from.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Pin the server's certificate.")] = False,
) -> None:
    """List an OPC UA server's variables with type and value; write a tag file; pin the server's certificate."""
    from cli.browse import show

    show(url, configuration(config), write, trust)


if __name__ == "__main__":
    app()
