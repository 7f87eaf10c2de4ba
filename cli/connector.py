"""`twin connector mqtt|opcua`: one connector process, until SIGTERM."""

from typing import Annotated

import typer

from cli.common import ConfigOption, configuration, err
from runtime import exit_codes, logs
from runtime.probes import serve

app = typer.Typer(help="Run one connector: field to Kafka.", no_args_is_help=True)
IdOption = Annotated[str | None, typer.Option("--id", help="Which one; needed where several are configured.")]


@app.command()
def mqtt(config: ConfigOption = None, connector_id: IdOption = None) -> None:
    """MQTT to Kafka."""
    plant = configuration(config, "connector.mqtt")
    chosen = _choose("mqtt", [m.id for m in plant.mqtt], connector_id)
    _begin(chosen)
    from connectors.mqtt import run

    raise typer.Exit(run(plant, chosen))


@app.command()
def opcua(config: ConfigOption = None, connector_id: IdOption = None) -> None:
    """OPC UA to Kafka."""
    plant = configuration(config, "connector.opcua")
    chosen = _choose("opcua", [o.id for o in plant.opcua], connector_id)
    _begin(chosen)
    from connectors.opcua import run

    raise typer.Exit(run(plant, chosen))


def _begin(name: str) -> None:
    logs.configure(name)
    serve(name)


def _choose(kind: str, ids: list[str], wanted: str | None) -> str:
    if wanted is None and len(ids) == 1:
        return ids[0]
    if wanted in ids:
        return wanted
    asked = "no --id is given" if wanted is None else f"--id {wanted!r} is unknown"
    err.print(f"{asked}, allowed for {kind} are: {', '.join(ids) or 'none (none is configured)'}", markup=False)
    raise typer.Exit(exit_codes.BAD_CONFIGURATION)
