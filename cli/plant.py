"""`twin plant run|play|load`: something to try the system on, at the addresses of `twin env`."""

import json
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlparse

import typer

from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    configuration,
    err,
    one_line_errors,
    use_environment_of,
)
from connectors.opcua_certificates import Refused, pin, pin_path
from plant.load import run_load
from plant.outlets import OutletError
from plant.play import play as play_data_sets
from plant.pump import Summary
from plant.run import run_plant
from plant.server_certificate import server_certificate
from runtime import logs
from runtime.config import Mqtt, Opcua

app = typer.Typer(help="A simulated plant, data sets and load, over real MQTT and OPC UA.", no_args_is_help=True)

JournalOption = Annotated[Path | None, typer.Option(help="Write every reading sent, with its truth, as JSON lines.")]
SecondsOption = Annotated[float | None, typer.Option(help="Stop after that time; else at Ctrl-C.")]
SeedOption = Annotated[int, typer.Option(help="Same seed, same noise.")]


@app.command()
def run(
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    reactors: Annotated[int, typer.Option(min=1, max=999)] = 3,
    rate_hz: Annotated[float, typer.Option(min=0.01, max=100.0, help="Readings per tag and second.")] = 10.0,
    seconds: SecondsOption = None,
    journal: JournalOption = None,
    faults: Annotated[bool, typer.Option("--faults/--no-faults", help="The demo's script of faults.")] = True,
    seed: SeedOption = 1,
) -> None:
    """Run reactors R101… with eight tags each: three by MQTT, five by OPC UA."""
    mqtt, url, certificates = _outlets(config, run_dir)
    with one_line_errors(OutletError, ValueError):
        summary = run_plant(
            mqtt_host=mqtt[0],
            mqtt_port=mqtt[1],
            opcua_url=url,
            certificate_dir=certificates,
            reactors=reactors,
            rate_hz=rate_hz,
            seconds=seconds,
            journal=journal,
            faults=None if faults else (),
            seed=seed,
        )
    _print(summary)


@app.command()
def play(
    files: Annotated[list[Path], typer.Argument(help="Data sets, as the ones in plant/data.", exists=True)],
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    protocol: Annotated[Literal["mqtt", "opcua"], typer.Option(help="How they leave the plant.")] = "mqtt",
    speed: Annotated[float, typer.Option(min=0.0, help="Times real time; 0: as fast as the system takes it.")] = 0.0,
    asset: Annotated[str | None, typer.Option(help="Instead of the file's name; one file only.")] = None,
    suffix: Annotated[str, typer.Option(help="Behind every asset's name.")] = "",
    rows: Annotated[int | None, typer.Option(min=1, help="Only so many rows of each.")] = None,
    journal: JournalOption = None,
) -> None:
    """Play data sets with their own times and values."""
    mqtt, url, certificates = _outlets(config, run_dir, serves=protocol == "opcua")
    with one_line_errors(OutletError, ValueError):
        summary = play_data_sets(
            files,
            protocol=protocol,
            speed=speed or None,
            asset=asset,
            suffix=suffix,
            rows=rows,
            mqtt_host=mqtt[0],
            mqtt_port=mqtt[1],
            opcua_url=url,
            certificate_dir=certificates,
            journal=journal,
        )
    _print(summary)


@app.command()
def load(
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    assets: Annotated[int, typer.Option(min=1)] = 20,
    tags: Annotated[int, typer.Option(min=1, help="Per asset.")] = 50,
    rate_hz: Annotated[float, typer.Option(min=0.01, max=100.0, help="Readings per tag and second.")] = 1.0,
    opcua_share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of tags that go by OPC UA.")] = 0.5,
    seconds: SecondsOption = None,
    journal: JournalOption = None,
    seed: SeedOption = 1,
    patience_s: Annotated[
        float, typer.Option(min=0.0, help="So long an OPC UA value waits for room in a subscriber's queue.")
    ] = 10.0,
) -> None:
    """Send many tags with cheap signals, to see what the system costs."""
    mqtt, url, certificates = _outlets(config, run_dir)
    with one_line_errors(OutletError, ValueError):
        summary = run_load(
            mqtt_host=mqtt[0],
            mqtt_port=mqtt[1],
            opcua_url=url,
            certificate_dir=certificates,
            assets=assets,
            tags=tags,
            rate_hz=rate_hz,
            opcua_share=opcua_share,
            seconds=seconds,
            journal=journal,
            seed=seed,
            patience_s=patience_s,
        )
    _print(summary)


def _outlets(config: Path | None, run_dir: Path, serves: bool = True) -> tuple[tuple[str, int], str, Path | None]:
    """MQTT address, OPC UA URL, and the server's certificate folder (None: no security as configured, or no server)."""
    logs.configure("plant")
    use_environment_of(run_dir)
    plant = configuration(config)
    mqtt = plant.mqtt[0] if plant.mqtt else Mqtt()
    opcua = plant.opcua[0] if plant.opcua else Opcua()
    with one_line_errors(Refused):
        secure = serves and opcua.security != "None"
        return mqtt.address, opcua.address, _pinned_certificate(opcua) if secure else None


def _pinned_certificate(opcua: Opcua) -> Path:
    """The folder of the plant's own certificate, which this machine's connector is told to trust.

    Nobody has to look at a fingerprint here: certificate and pin are made by the same person on the same machine. A
    pin of another server is never replaced. Raises Refused.
    """
    folder = opcua.certificate_dir.expanduser() / "plant"
    certificate = server_certificate(folder).read_bytes()
    path = pin_path(opcua)
    if urlparse(opcua.address).hostname not in ("127.0.0.1", "localhost", "::1"):
        raise Refused(f"{opcua.address}: the plant's server runs on this machine; allowed is a loopback address")
    if not path.exists():
        pin(opcua, certificate)
        err.print(f"pinned the plant's OPC UA certificate: {path}", style="dim", highlight=False)
    elif path.read_bytes() != certificate:
        raise Refused(f"{path} pins another server than this plant; delete it, or set opcua.url to another port")
    return folder


def _print(summary: Summary) -> None:
    typer.echo(json.dumps(summary.as_dict(), indent=2))
