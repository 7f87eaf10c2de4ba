"""What discovery makes of a server whose texts are not what the standard asks for."""

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any
from unittest.mock import AsyncMock

import pytest
from asyncua import ua

from connectors import opcua_nodes
from connectors.opcua_nodes import Nodes
from runtime.config import Opcua, Plant

UNIT = ua.NodeId("unit", 2)


@dataclass
class Server:
    """Stands for session and client: one variable below Objects, and its unit."""

    variable: ua.NodeId
    unit: str
    namespaces: list[str] = field(default_factory=lambda: ["", "urn:a", "urn:b"])
    browse_max: int = 10

    @property
    def client(self) -> Any:
        """Ourselves."""
        return SimpleNamespace(uaclient=self)

    async def browse(self, parameters: ua.BrowseParameters) -> list[ua.BrowseResult]:
        """The variable is all there is below Objects."""
        objects = ua.NodeId(ua.ObjectIds.ObjectsFolder)
        found = ua.ReferenceDescription(NodeId=self.variable, NodeClass=ua.NodeClass.Variable)
        return [
            ua.BrowseResult(References=[found] if asked.NodeId == objects else []) for asked in parameters.NodesToBrowse
        ]

    async def translate_browsepaths_to_nodeids(self, paths: list[ua.BrowsePath]) -> list[ua.BrowsePathResult]:
        """Where the variable's unit is."""
        assert [path.StartingNode for path in paths] == [self.variable]
        return [ua.BrowsePathResult(Targets=[ua.BrowsePathTarget(TargetId=UNIT)])]

    async def read_raw(self, _nodes: list[ua.NodeId]) -> list[Any]:
        """The unit."""
        return [ua.EUInformation(DisplayName=ua.LocalizedText(self.unit))]


async def test_names_and_units_that_are_no_utf_8_can_be_written() -> None:
    """Names and a unit in Latin-1 become text that a frame can hold, while the server is asked with its own bytes."""
    server: Any = Server(ua.NodeId("Reactor.K\udcfchler.Stra\udcdfe.PV", 2), unit="\udcb0C")
    config = Opcua(url="opc.tcp://127.0.0.1:1")
    [item] = await Nodes(Plant(opcua=(config,)), config).items(server)
    assert item.node_id == server.variable
    assert (item.asset, item.tag, item.unit) == ("K\\xfchler", "stra_xdfe", "\\xb0C")
    assert item.node == "nsu=urn:b;s=Reactor.K\\xfchler.Stra\\xdfe.PV"


async def test_a_node_that_was_made_again_is_the_same_item(monkeypatch: pytest.MonkeyPatch) -> None:
    """The order in which a server shows its nodes is not that of the items: one that was removed and made again comes
    last there, and the subscription could not be taken over after a cut connection."""
    ids = [ua.NodeId(f"Reactor.R0.{name}.PV", 2) for name in ("Level", "Pressure", "Temperature")]
    shown = [ids, [ids[0], ids[2], ids[1]]]
    monkeypatch.setattr(opcua_nodes, "variables", AsyncMock(side_effect=shown))
    monkeypatch.setattr(opcua_nodes, "units", AsyncMock(return_value=[""] * len(ids)))
    config = Opcua(id="ua", url="opc.tcp://127.0.0.1:4840")
    session: Any = SimpleNamespace(namespaces=["", "urn:a", "urn:b"])
    nodes = Nodes(Plant(opcua=(config,)), config)
    before, after = [[item.key for item in await nodes.items(session)] for _ in shown]
    assert before == after
    assert len(before) == len(ids)
