"""When a full queue must be taken for one that overflowed: not every server sets the overflow bit."""

import asyncio
import time
from typing import Any

import pytest
from asyncua import ua

from connectors import opcua_binary
from connectors.opcua_binary import Notification, Published, Value
from connectors.opcua_subscription import STANDSTILL_S, TICK_S, Subscription
from runtime.config import Opcua
from tests.connectors.test_opcua_parts import ITEM

PUBLISHING_S = 0.1


class Server:
    """Stands for session, memory and intake; it answers at once, from the notification `first` on. Each `take` lasts
    as long as `takes_s` says. While notification `still_at` is asked for, the whole process stands still."""

    def __init__(self, takes_s: list[float], first: int = 1, still_at: int = 0) -> None:
        self.config = Opcua(id="ua", url="opc.tcp://127.0.0.1:1", publishing_s=PUBLISHING_S)
        self.sequence = 0
        self._suspected: list[bool] = []
        self._takes_s = takes_s
        self._next = first
        self._still_at = still_at
        self._done = asyncio.Event()

    async def request(self, request: Any, _timeout: float = 0.0) -> Any:
        """The next notification, or the one that is asked for again; none any more after the last."""
        if isinstance(request, ua.RepublishRequest):
            return _notification(request.Parameters.RetransmitSequenceNumber)
        if len(self._suspected) == len(self._takes_s):
            self._done.set()
            await asyncio.Event().wait()
        number, self._next = self._next, self._next + 1
        if number == self._still_at:
            time.sleep(STANDSTILL_S + 2 * TICK_S)  # noqa: ASYNC251  # nothing runs, as after SIGSTOP
            await asyncio.sleep(TICK_S)
        return Published(0, list(range(1, number + 1)), _notification(number))

    async def take(self, _values: Any, may_have_overflowed: bool, _sequence: int) -> None:
        """Sees it into Kafka, which may take its time."""
        self._suspected.append(may_have_overflowed)
        await asyncio.sleep(self._takes_s[len(self._suspected) - 1])

    async def suspected(self, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
        """Publish all; which of what was taken may have come out of queues that had overflowed."""
        monkeypatch.setattr(opcua_binary, "published", lambda answer: answer)
        monkeypatch.setattr(opcua_binary, "republished", lambda answer: answer)
        server: Any = self
        publishing = asyncio.create_task(Subscription(server, [ITEM], server, server).run())
        await asyncio.wait_for(self._done.wait(), 10)
        publishing.cancel()
        return self._suspected


def _notification(number: int) -> Notification:
    return Notification(number, [Value(0, 1.0, None, 0, number, 0)], keep_alive=False)


async def test_while_kafka_made_us_wait_the_queues_may_have_overflowed(monkeypatch: pytest.MonkeyPatch) -> None:
    """What comes after a wait for Kafka longer than a publishing interval is suspected, and nothing after that."""
    server = Server([0.0, 3 * PUBLISHING_S, 0.0, 0.0])
    assert await server.suspected(monkeypatch) == [False, False, True, False]


async def test_what_is_asked_for_again_came_from_queues_that_may_have_overflowed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Notifications that a killed process did not take are suspected: a server put them together after an outage."""
    server = Server([0.0, 0.0, 0.0, 0.0], first=3)
    assert await server.suspected(monkeypatch) == [True, True, False, False]


async def test_the_answer_to_a_request_of_before_a_standstill_tells_nothing_of_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """After a standstill the next answer is suspected as well: the waiting request was answered when it began."""
    server = Server([0.0, 0.0, 0.0, 0.0], still_at=2)
    assert await server.suspected(monkeypatch) == [False, True, True, False]
