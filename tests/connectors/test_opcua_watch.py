"""When the watch may call a monitored item dead, and when it must not."""

import asyncio
from dataclasses import dataclass, field
from typing import Any

import pytest
from asyncua import ua

from connectors import opcua_watch
from connectors.opcua_binary import Value
from connectors.opcua_watch import Watch
from tests.connectors.test_opcua_parts import ITEM


@dataclass
class Server:
    """Stands for session, subscription and intake: one item whose value on the server is newer than our last one."""

    busy: bool = False
    items: tuple[Any, ...] = (ITEM,)
    heard_s: list[float] = field(default_factory=lambda: [0.0])
    absent: dict[int, int] = field(default_factory=dict)
    suspicious: asyncio.Event = field(default_factory=asyncio.Event)
    subscribed_anew: list[int] = field(default_factory=list)
    asked_alive: int = 0

    async def read(self, nodes: list[ua.NodeId]) -> list[Value]:
        """The namespace array, then the newer value."""
        return [Value(0, 0.0, "[]", 0, None, None)] + [Value(i, 2.0, None, 0, 2000, 0) for i in range(len(nodes) - 1)]

    async def alive(self) -> None:
        """Asked instead of looking."""
        self.asked_alive += 1

    def last_ns(self, _handle: int) -> int:
        """Older than what the server has."""
        return 1000

    def latest(self, _handle: int) -> Value:
        """Our newest value."""
        return Value(0, 1.0, None, 0, 1000, 0)

    def expect_hole(self, _handles: Any, _cause: str) -> None:
        """Nothing to remember here."""

    async def monitor(self, handles: list[int]) -> None:
        """The item is subscribed anew."""
        self.subscribed_anew += handles


async def look(server: Any, times: int) -> None:
    """Run the watch for so many looks."""
    watch = asyncio.create_task(Watch(server, server, server).run())
    await asyncio.sleep(times * opcua_watch.LOOK_S - opcua_watch.LOOK_S / 2)
    watch.cancel()
    await asyncio.gather(watch, return_exceptions=True)


async def test_a_dead_item_is_subscribed_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    """An item that is behind the server at one look may have a notification under way; at two it is dead."""
    monkeypatch.setattr(opcua_watch, "LOOK_S", 0.2)
    once, twice = Server(), Server()
    await look(once, 1)
    await look(twice, 2)
    assert (once.subscribed_anew, twice.subscribed_anew) == ([], [0])


async def test_nothing_is_dead_while_kafka_makes_us_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """While readings wait for Kafka no notification is asked for: items must keep their queues, the session is kept
    alive."""
    monkeypatch.setattr(opcua_watch, "LOOK_S", 0.2)
    server = Server(busy=True)
    await look(server, 3)
    assert server.subscribed_anew == []
    assert server.asked_alive == 3
