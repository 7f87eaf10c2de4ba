"""Items that a server has and does not let us subscribe."""

import dataclasses
import logging
from types import SimpleNamespace
from typing import Any

import pytest
from asyncua import ua

from connectors import opcua_subscription
from connectors.opcua_subscription import Subscription
from runtime.config import Opcua
from runtime.health import Health
from tests.connectors.test_opcua_parts import ITEM

ITEMS = [dataclasses.replace(ITEM, node=f"s={tag}", tag=tag) for tag in "abc"]


class Server:
    """Stands for session, client, memory and intake; it gives an item a status of `statuses`."""

    def __init__(self, *statuses: int) -> None:
        self.statuses = statuses
        self.config = Opcua(url="opc.tcp://plc:4840")
        self.monitor_max = 10
        self.credentials = ("i=5", "00")
        self.queue_sizes = [1] * len(ITEMS)

    @property
    def client(self) -> Any:
        """Ourselves."""
        return SimpleNamespace(uaclient=self)

    async def create_monitored_items(self, request: ua.CreateMonitoredItemsParameters) -> list[Any]:
        """Made or refused."""
        handles = [item.RequestedParameters.ClientHandle for item in request.ItemsToCreate]
        return [
            ua.MonitoredItemCreateResult(StatusCode=ua.StatusCode(self.statuses[i]), MonitoredItemId=1) for i in handles
        ]

    async def delete_monitored_items(self, _request: Any) -> None:
        """They are gone."""

    def keep(self, _resumable: Any) -> None:
        """Nothing to remember here."""


async def test_refused_items_are_a_trouble_with_their_names(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """While a server refuses items, the connector is ill and says once of which and why; granted later, or gone (which
    its readings tell), it is well."""
    full, good = ua.StatusCodes.BadTooManyMonitoredItems, ua.StatusCodes.Good
    server: Any = Server(good, full, full)
    health = Health()
    monkeypatch.setattr(opcua_subscription, "HEALTH", health)
    caplog.set_level(logging.WARNING)
    subscription = Subscription(server, ITEMS, server, server)
    await subscription.monitor([0, 1, 2])
    await subscription.monitor([1, 2])
    reason = "items: opc.tcp://plc:4840 refuses s=b (and 1 more): BadTooManyMonitoredItems"
    assert health.why_not_ready() == [reason]
    assert [r.message for r in caplog.records if r.name == "runtime.health"] == [reason]
    server.statuses = (good, good, ua.StatusCodes.BadNodeIdUnknown)
    await subscription.monitor([1, 2])
    assert health.why_not_ready() == []
