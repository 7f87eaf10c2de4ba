"""`twin cert`: a certificate authority of one's own, for development and for plants that have none."""

from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from cli.common import one_line_errors, out
from services.certificates import CA_DAYS, DAYS, LOOPBACK, Authority, CertificateError, check

app = typer.Typer(help="Make, add, renew and show certificates of a development CA.", no_args_is_help=True)

SERVERS = ("kafka", "mosquitto", "influxdb")
CLIENTS = ("connector-mqtt",)
#: OPC UA servers: file name → application URI. A connector makes its own certificate when it is started first.
OPCUA = {"opcua-server": "urn:process-twin:plant:server"}

Folder = Annotated[Path, typer.Argument(help="Folder of the authority, as certs; keep it out of version control.")]
DaysOption = Annotated[float, typer.Option(min=1, help="How long the certificates are valid.")]
HostOption = Annotated[
    list[str] | None, typer.Option("--host", help="A name or address of the server, more than once; loopback.")
]


@app.command()
def make(
    folder: Folder,
    host: HostOption = None,
    days: DaysOption = DAYS,
    ca_days: Annotated[float, typer.Option(min=1, help="How long the authority is valid.")] = CA_DAYS,
) -> None:
    """Make a CA with certificates for Kafka, mosquitto, InfluxDB, an MQTT client and OPC UA; replaces nothing."""
    hosts = host or list(LOOPBACK)
    with one_line_errors(CertificateError, OSError):
        Authority(folder).refuse_to_replace([*SERVERS, *CLIENTS, *OPCUA])
        check(hosts, days, ca_days)  # before anything is written that the corrected command would find in its way
        authority = Authority.make(folder, ca_days)
        for name in SERVERS:
            authority.server(name, hosts, days)
        for name in CLIENTS:
            authority.client(name, days)
        for name, uri in OPCUA.items():
            authority.opcua(name, uri, hosts, days)
    _show(authority)


@app.command()
def add(
    folder: Folder,
    kind: Annotated[str, typer.Argument(help="server, client or opcua.")],
    name: Annotated[str, typer.Argument(help="Name of the certificate and its files.")],
    host: HostOption = None,
    uri: Annotated[str | None, typer.Option(help="Application URI, for opcua; urn:process-twin:NAME.")] = None,
    days: DaysOption = DAYS,
) -> None:
    """Add one certificate of the folder's CA; replaces nothing."""
    authority, hosts = Authority(folder), host or list(LOOPBACK)
    issue: dict[str, Callable[[], object]] = {
        "server": lambda: authority.server(name, hosts, days),
        "client": lambda: authority.client(name, days),
        "opcua": lambda: authority.opcua(name, uri or f"urn:process-twin:{name}", hosts, days),
    }
    with one_line_errors(CertificateError, OSError):
        if kind not in issue:
            raise CertificateError(f"kind {kind!r} is unknown, allowed are {', '.join(issue)}")
        issue[kind]()
    _show(authority)


@app.command()
def renew(
    folder: Folder,
    names: Annotated[list[str] | None, typer.Argument(help="Which; all of them.")] = None,
    days: DaysOption = DAYS,
) -> None:
    """Give certificates new dates; the CA, the keys and the names stay, so nobody has to trust anything new."""
    authority = Authority(folder)
    with one_line_errors(CertificateError, OSError):
        for name in names or authority.names():
            authority.renew(name, days)
    _show(authority)


@app.command()
def show(folder: Folder) -> None:
    """Show the certificates and when they end."""
    _show(Authority(folder))


def _show(authority: Authority) -> None:
    with one_line_errors(CertificateError):
        for name in ("ca", *authority.names()):
            line = f"{authority.directory / name}.pem valid until {authority.expiry(name):%Y-%m-%d %H:%M} UTC"
            out.print(line, markup=False, highlight=False, soft_wrap=True)
