"""What the connector takes along when it connects again."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from connectors import opcua
from connectors.opcua import Connector
from connectors.opcua_binary import Value
from connectors.opcua_nodes import Nodes
from runtime.config import Opcua, Plant
from schemas.frames import Frame
from tests.connectors.test_opcua_parts import ITEM


class Kafka:
    """Stands for the delivery, and has confirmed at once."""

    def __init__(self, *_: object) -> None:
        self.frames: list[Frame] = []

    def send(self, frame: Frame, on_safe: Callable[[], None]) -> None:
        """It is there."""
        self.frames.append(frame)
        on_safe()


async def test_readings_have_the_unit_of_their_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that comes back with another unit for the same node: readings from then on carry the new one, what the
    connector expects of the item stays."""
    monkeypatch.setattr(opcua, "Delivery", Kafka)
    config = Opcua(id="ua", url="opc.tcp://127.0.0.1:1", state_dir=tmp_path)
    plant = Plant(opcua=(config,))
    connector: Any = Connector(plant, config, Nodes(plant, config))
    for time_ns, unit in ((1000, "bar"), (2000, "kPa")):
        intake = await connector._intake_of(None, [dataclasses.replace(ITEM, unit=unit)])
        await intake.take([Value(0, 1.0, None, 0, time_ns, time_ns)])
        intake.expect_hole([0], "subscription lost")
    frames = connector._delivery.frames
    assert [(f.kind, f.units) for f in frames if f.tags] == [
        ("readings", ("bar",)),
        ("gap", ("",)),
        ("readings", ("kPa",)),
    ]
