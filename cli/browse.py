"""`twin browse`: an OPC UA server's variables as a table."""

from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from cli.common import ConfigOption, cells, configuration, err, one_line_errors, out, printable
from connectors.browse import BrowseFailed, ServerCertificate, run_browse
from runtime import logs
from runtime.config import Opcua


def browse(
    url: Annotated[str, typer.Argument(help="opc.tcp://host:port")],
    config: ConfigOption = None,
    write: Annotated[Path | None, typer.Option(help="Write a tag file to start from.")] = None,
    trust: Annotated[bool, typer.Option("--trust", help="Pin the server's certificate.")] = False,
    any_host: Annotated[bool, typer.Option("--any-host", help="Also one that does not name this host.")] = False,
) -> None:
    """List an OPC UA server's variables with type and value; write a tag file; pin the server's certificate."""
    plant = configuration(config)
    logs.configure("browse")
    settings = next((o for o in plant.opcua if o.url == url), plant.opcua[0] if plant.opcua else Opcua())
    with one_line_errors(BrowseFailed):
        found = run_browse(settings, url=url, trust=trust, any_host=any_host, confirm=_confirm, write=write)
    table = Table("node", "asset", "tag", "type", "value", "unit", "status", "by pattern")
    for v in found:
        shown = cells(v.node, v.asset, v.tag, v.type, v.value, v.unit, v.status, "yes" if v.matched else "no")
        table.add_row(*shown)
    out.print(table)
    out.print(f"{len(found)} variables, {sum(v.matched for v in found)} match opcua.discover")
    if write is not None:
        out.print(f"wrote {write}; name it in plant.toml: opcua.tags_file")


def _confirm(certificate: ServerCertificate) -> bool:
    err.print(f"subject      {printable(certificate.subject)}", highlight=False, markup=False)
    err.print(f"fingerprint  {certificate.fingerprint}", highlight=False)
    err.print(f"valid until  {certificate.valid_until}", highlight=False)
    return typer.confirm("Trust this server from now on?", err=True)
