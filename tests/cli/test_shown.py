"""Commands show texts from the field as they are, whatever they are."""

import re
from io import StringIO
from pathlib import Path

import pandas as pd
import pytest
from asyncua import ua
from rich.console import Console
from typer.testing import CliRunner

from cli import browse, common, query
from cli.live import Newest, Seen, view
from cli.main import app
from connectors.browse import ServerCertificate, Variable, _names

VARIABLE = Variable(
    node="nsu=urn:b;s=R1.[/red].PV",
    asset="R1",
    tag="[bold]pv",
    matched=True,
    type="Double",
    value="1\x1b[2J",
    unit="°C",
    status="Good",
)
CERTIFICATE = ServerCertificate(subject="CN=[/x]\x1b[2J", fingerprint="00:11", valid_until="2030-01-01")


def test_texts_of_an_opcua_server_are_shown_and_do_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Brackets are no style, and what a terminal would obey is escaped, in the table and in a certificate's subject."""
    monkeypatch.chdir(tmp_path)

    def found(*_: object, confirm: object, **__: object) -> list[Variable]:
        assert callable(confirm)
        assert confirm(CERTIFICATE)
        return [VARIABLE]

    monkeypatch.setattr(browse, "run_browse", found)
    monkeypatch.setattr(common.out, "width", 200)
    result = CliRunner().invoke(app, ["browse", "opc.tcp://127.0.0.1:1", "--trust"], input="y\n")
    assert result.exit_code == 0, result.output
    for shown in (VARIABLE.node, VARIABLE.tag, r"1\u001b[2J", r"CN=[/x]\u001b[2J"):
        assert shown in result.output
    assert "\x1b[2J" not in result.output


def test_names_that_are_no_utf_8_can_be_shown_and_written() -> None:
    """A name in Latin-1 is suggested as the connector would write it."""
    node = ua.NodeId("Plant.K\udcfchler.Stra\udcdfe", 2)
    asset, tag, matched = _names(node, re.compile("no match"))
    assert (asset, tag, matched) == ("K\\xfchler", "stra_xdfe", False)


def test_texts_in_influxdb_are_shown_and_do_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    """A unit that looks like a style, or moves the cursor, is shown by `twin query`."""
    query._show(pd.DataFrame({"value": [1.5], "unit": ["[/red]\x1b[2J"]}, index=[7]), "table")
    shown = capsys.readouterr().out
    assert r"[/red]\u001b[2J" in shown


def test_texts_in_kafka_are_shown_and_do_nothing() -> None:
    """A unit, a text and an asset's name that look like a style are shown by the live table."""
    seen = Seen()
    seen.tags["[/a]", "[b]"] = Newest(raw="[/c]", unit="[/d]", estimate=1.0, std=0.1, flag=1)
    console = Console(width=200, record=True, file=StringIO())
    console.print(view(seen, [], "now"))
    shown = console.export_text()
    assert all(text in shown for text in ("[/a]", "[b]", "[/c]", "[/d]")), shown
