"""`twin tokens`: a token per role for InfluxDB."""

import http.client
from pathlib import Path
from typing import Annotated

import typer

from cli.common import ConfigOption, configuration, err, one_line_errors, out
from runtime import exit_codes
from services.errors import ServiceError
from services.influx_tokens import ROLES, InfluxApi, make_tokens


def tokens(
    folder: Annotated[Path, typer.Argument(help="Where the tokens go, a file per role; `influxdb.tokens_dir`.")],
    role: Annotated[
        list[str] | None, typer.Option("--role", help="sink, viewer, operator or replay, more than once; all.")
    ] = None,
    config: ConfigOption = None,
) -> None:
    """Make a token per role in InfluxDB, with the operator's in INFLUX_TOKEN; what is good already is kept."""
    influxdb = configuration(config, None).influxdb
    roles = role or list(ROLES)
    if unknown := sorted(set(roles) - ROLES.keys()):
        err.print(f"--role {unknown[0]!r} is unknown, allowed are {', '.join(ROLES)}", markup=False)
        raise typer.Exit(exit_codes.FAILED)
    api = InfluxApi(influxdb.address, influxdb.token, influxdb.ca_file)
    with one_line_errors(ServiceError, OSError, http.client.HTTPException):
        for path in make_tokens(api, influxdb.organisation, influxdb.bucket_name, folder, roles):
            out.print(f"{path} may {' and '.join(ROLES[path.name])}", markup=False, highlight=False, soft_wrap=True)
