"""Which processes and addresses make up a system on one machine."""

import pytest

from cli.processes import external_addresses
from runtime.config import Opcua, Plant


def test_two_systems_that_start_at_once_have_an_opcua_address_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """A port that is free is not taken for one that stays free: neither server listens yet, and they differ."""
    monkeypatch.delenv("OPCUA_URL", raising=False)
    plant = Plant(opcua=[Opcua(id="ua")])
    assert external_addresses(plant)["OPCUA_URL"] != external_addresses(plant)["OPCUA_URL"]
    monkeypatch.setenv("OPCUA_URL", "opc.tcp://plc7:4840")
    assert external_addresses(plant)["OPCUA_URL"] == "opc.tcp://plc7:4840"
