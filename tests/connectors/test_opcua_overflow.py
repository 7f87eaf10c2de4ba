"""When a full queue must be taken for one that overflowed: not every server sets the overflow bit."""

import asyncio
from typing import Any

import pytest

from connectors import opcua_binary
from connectors.opcua_binary import Notification, Published, Value
from connectors.opcua_subscription import Subscription
from runtime.config import Opcua
from tests.connectors.test_opcua_parts import ITEM

PUBLISHING_S = 0.1


class Server:
    """Stands for session, memory and intake: answers at once; each `take` lasts as long as `takes_s` says."""

    def __init__(self, takes_s: list[float]) -> None:
        self.config = Opcua(id="ua", url="opc.tcp://127.0.0.1:1", publishing_s=PUBLISHING_S)
        self.sequence = 0
        self.suspected: list[bool] = []
        self._takes_s = takes_s
        self.done = asyncio.Event()

    async def request(self, _request: Any, _timeout: float) -> Published:
        """The next notification; none any more after the last."""
        if len(self.suspected) == len(self._takes_s):
            self.done.set()
            await asyncio.Event().wait()
        values = [Value(0, 1.0, None, 0, self.sequence, 0)]
        return Published(0, [], Notification(self.sequence + 1, values, keep_alive=False))

    async def take(self, _values: Any, may_have_overflowed: bool) -> None:
        """Sees it into Kafka, which may take its time."""
        self.suspected.append(may_have_overflowed)
        await asyncio.sleep(self._takes_s[len(self.suspected) - 1])


async def test_while_kafka_made_us_wait_the_queues_may_have_overflowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after a wait for Kafka longer than a publishing interval is suspected, and nothing after that."""
    monkeypatch.setattr(opcua_binary, "published", lambda answer: answer)
    server: Any = Server([0.0, 3 * PUBLISHING_S, 0.0, 0.0])
    publishing = asyncio.create_task(Subscription(server, [ITEM], server, server).run())
    await asyncio.wait_for(server.done.wait(), 10)
    publishing.cancel()
    assert server.suspected == [False, False, True, False]
