"""Looks at an OPC UA server without configuring anything: its variables, a tag file to start from, its certificate.

May not know frames nor Kafka. What to show and how is the caller's.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import tomlkit
from asyncua import ua
from cryptography import x509

from connectors.opcua_binary import writable
from connectors.opcua_certificates import Refused, check_host, fingerprint, pin
from connectors.opcua_nodes import by_uri, units, variables
from connectors.opcua_session import TROUBLE, Session, describe, server_certificate
from connectors.opcua_values import status_name, tag_name
from runtime.config import Opcua

BAD_TAG_CHARACTERS = re.compile(r"[/+#\s]+")


class BrowseFailed(RuntimeError):
    """The server cannot be looked at. The message says why and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One variable of a server. `matched`: asset and tag come from `opcua.discover`, so it is read without any
    configuration; else they are a suggestion."""

    node: str
    asset: str
    tag: str
    matched: bool
    type: str
    value: str
    unit: str
    status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerCertificate:
    """What a person compares before trusting."""

    subject: str
    fingerprint: str
    valid_until: str


def run_browse(
    config: Opcua,
    *,
    url: str | None = None,
    trust: bool = False,
    any_host: bool = False,
    confirm: Callable[[ServerCertificate], bool] = lambda _: True,
    write: Path | None = None,
) -> list[Variable]:
    """List a server's variables. `trust`: pin its certificate first, after `confirm` has shown it and said yes;
    `any_host`: also one that does not name the URL's host.
    `write`: a tag file for `opcua.tags_file` (not over an existing file). Raises BrowseFailed."""
    if url is not None:
        config = config.model_copy(
            update={"url": url, "server_certificate": None if trust else config.server_certificate}
        )
    try:
        if trust and config.security != "None":
            asyncio.run(_trust(config, any_host, confirm))
        found = asyncio.run(browse(config))
    except TROUBLE as error:
        raise BrowseFailed(f"{config.address}: {describe(error)}") from error
    if write is not None:
        write_tags_file(write, found, config.address)
    return found


async def browse(config: Opcua) -> list[Variable]:
    """Every variable below Objects with its value now. Raises connectors.opcua_session.TROUBLE."""
    session = await Session.open(config)
    try:
        nodes = await variables(session)
        values = await session.read(nodes)
        types = await session.read(nodes, ua.AttributeIds.DataType)
        named = await units(session, nodes)
        expression = re.compile(config.discover)
        rows = []
        for node, value, kind, unit in zip(nodes, values, types, named, strict=True):
            asset, tag, matched = _names(node, expression)
            rows.append(
                Variable(
                    node=by_uri(node, session.namespaces),
                    asset=asset,
                    tag=tag,
                    matched=matched,
                    type=_type_name(kind.text),
                    value=value.text if value.text is not None else f"{value.value:g}",
                    unit=unit,
                    status=status_name(value.status),
                )
            )
        return rows
    finally:
        await session.close()


def write_tags_file(path: Path, found: Sequence[Variable], url: str) -> int:
    """Write the variables that hold numbers as `[[nodes]]` for `opcua.tags_file`, where any match `opcua.discover` only
    these; returns how many. Raises BrowseFailed where the file exists or nothing can be written."""
    numbers = [v for v in found if _is_number(v.value)]
    chosen = [v for v in numbers if v.matched] or numbers
    document = tomlkit.document()
    document.add(
        tomlkit.comment(f"Variables of {url}, written by `twin browse`. Edit asset and tag, delete what is not")
    )
    document.add(tomlkit.comment('wanted, and name this file in plant.toml: opcua.tags_file. read = "cyclic" with'))
    document.add(tomlkit.comment("interval_s polls a node instead; historised = true fills holes from its history."))
    rows = tomlkit.aot()
    for variable in chosen:
        row = tomlkit.table()
        row.update({"node": variable.node, "asset": variable.asset, "tag": variable.tag})
        if variable.unit:
            row["unit"] = variable.unit
        rows.append(row)
    document["nodes"] = rows
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(tomlkit.dumps(document))
    except FileExistsError:
        raise BrowseFailed(f"{path} exists already and is not overwritten") from None
    except OSError as error:
        raise BrowseFailed(f"{path}: {error.strerror}") from error
    return len(chosen)


async def _trust(config: Opcua, any_host: bool, confirm: Callable[[ServerCertificate], bool]) -> None:
    der = await server_certificate(config)
    if not any_host:
        check_host(der, config.address)
    certificate = x509.load_der_x509_certificate(der)
    shown = ServerCertificate(
        subject=certificate.subject.rfc4514_string(),
        fingerprint=fingerprint(der),
        valid_until=f"{certificate.not_valid_after_utc:%Y-%m-%d}",
    )
    if not confirm(shown):
        raise Refused("the certificate was not accepted, nothing is pinned")
    pin(config, der)


def _names(node: ua.NodeId, expression: re.Pattern[str]) -> tuple[str, str, bool]:
    """Asset and tag by the pattern; else a suggestion: the second to last part of the id and the last."""
    text = writable(str(node.Identifier))
    match = expression.fullmatch(text)
    if match is not None:
        groups = match.groupdict()
        return groups["asset"], tag_name(groups["tag"], groups.get("role")), True
    parts = [BAD_TAG_CHARACTERS.sub("_", part) for part in re.split(r"[./]", text) if part]
    return (parts[-2] if len(parts) > 1 else "plant"), tag_name(parts[-1] if parts else "value", None), False


def _type_name(data_type: str | None) -> str:
    """`Double` for the standard types' ids, else the id."""
    found = re.search(r"Identifier=(\d+), NamespaceIndex=0", data_type or "")
    return ua.ObjectIdNames.get(int(found[1]), data_type or "") if found else data_type or ""


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True
