"""Looks regularly whether the server still has every item, also where it says nothing; and reads cyclic nodes.

A subscription can look alive and be empty, a node can be deleted without a word, namespaces can be renumbered. So
every few seconds the items that gave no value meanwhile are read: one that is gone becomes a BAD reading and is
subscribed again when it is back; one whose value moved on without a notification is subscribed anew.
"""

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Coroutine, Sequence
from typing import Any

from asyncua import ua

from connectors.opcua_binary import Value
from connectors.opcua_intake import Intake
from connectors.opcua_session import Session
from connectors.opcua_subscription import Subscription, SubscriptionLost
from connectors.opcua_values import GONE, status_name

log = logging.getLogger(__name__)

LOOK_S = 4.0
_NAMESPACES = ua.NodeId(ua.ObjectIds.Server_NamespaceArray)


class Watch:
    """Belongs to one session, subscription and list of items."""

    def __init__(self, session: Session, subscription: Subscription, intake: Intake) -> None:
        self._session = session
        self._subscription = subscription
        self._intake = intake
        self._items = intake.items
        self._subscribed = [i for i, item in enumerate(self._items) if not item.cyclic]
        self._behind: dict[int, int] = {}  # handle → newer source time the server had at the last look
        self._told: set[int] = set()  # absent items whose BAD reading is written
        self._namespaces: str | None = None

    async def run(self) -> None:
        """Look for ever. Raises TROUBLE."""
        while True:
            await self._look()
            self._subscription.suspicious.clear()
            try:
                await asyncio.wait_for(self._subscription.suspicious.wait(), LOOK_S)
            except TimeoutError:
                continue

    async def _look(self) -> None:
        if self._intake.busy:  # we asked for no notifications meanwhile, so silence tells nothing
            self._behind = {}
            await self._session.alive()
            return
        since_s = time.monotonic() - LOOK_S
        silent = [
            i for i in self._subscribed if self._intake.heard_s[i] < since_s or self._subscription.suspicious.is_set()
        ]
        namespaces, *values = await self._session.read([_NAMESPACES, *(self._items[i].node_id for i in silent)])
        if self._namespaces not in (None, namespaces.text):
            raise SubscriptionLost("the server has renumbered its namespaces")
        self._namespaces = namespaces.text
        found = {handle: value._replace(handle=handle) for handle, value in zip(silent, values, strict=True)}
        await self._see_absent(found)
        await self._see_behind(found)

    async def _see_absent(self, found: dict[int, Value]) -> None:
        gone = {i: v for i, v in found.items() if v.status in GONE}
        new = [v for i, v in gone.items() if i not in self._told]
        if new:
            log.warning(
                "%s (and %d more): %s", self._items[new[0].handle].node, len(new) - 1, status_name(new[0].status)
            )
            for value in new:
                self._subscription.absent[value.handle] = value.status
            self._intake.expect_hole((v.handle for v in new), "node missing")
            await self._intake.take(new)
            self._told |= {v.handle for v in new}
        back = [i for i in self._subscription.absent if i in found and i not in gone]
        if back:
            await self._subscription.monitor(back)
            here = [i for i in back if i not in self._subscription.absent]
            self._told -= set(here)
            if here:
                log.info("%d items subscribed again, %d absent", len(here), len(self._subscription.absent))

    async def _see_behind(self, found: dict[int, Value]) -> None:
        """An item whose value moved on at two looks without a notification in between is dead on the server."""
        behind = {i: v for i, v in found.items() if i not in self._subscription.absent and self._is_behind(i, v)}
        dead = [i for i in behind if i in self._behind and (self._intake.last_ns(i) or 0) < self._behind[i]]
        self._behind = {i: v.source_ns or 0 for i, v in behind.items()}
        if dead:
            log.warning(
                "%s (and %d more): no notifications; subscribing anew", self._items[dead[0]].node, len(dead) - 1
            )
            self._intake.expect_hole(dead, "monitored item was dead")
            await self._subscription.monitor(dead)
            self._behind = {}

    def _is_behind(self, handle: int, value: Value) -> bool:
        last_ns, latest, deadband = (
            self._intake.last_ns(handle),
            self._intake.latest(handle),
            self._items[handle].deadband,
        )
        if value.source_ns is None or (last_ns is not None and value.source_ns <= last_ns):
            return False
        return deadband is None or latest is None or abs(value.value - latest.value) > deadband


async def read_cyclically(session: Session, intake: Intake) -> None:
    """Read the nodes marked `cyclic` for ever, each at its interval, all of one interval in one go. Raises TROUBLE."""
    groups: dict[float, list[int]] = defaultdict(list)
    for handle, item in enumerate(intake.items):
        if item.cyclic:
            groups[item.interval_s].append(handle)
    await together(*(_cycle(session, intake, interval_s, handles) for interval_s, handles in groups.items()))


async def _cycle(session: Session, intake: Intake, interval_s: float, handles: Sequence[int]) -> None:
    nodes = [intake.items[handle].node_id for handle in handles]
    due_s = time.monotonic()
    while True:
        values = await session.read(nodes)
        await intake.take([v._replace(handle=handle) for handle, v in zip(handles, values, strict=True)])
        due_s = max(due_s + interval_s, time.monotonic())  # what was missed is not made up
        await asyncio.sleep(due_s - time.monotonic())


async def together(*jobs: Coroutine[Any, Any, None]) -> None:
    """Run jobs that never end until one fails; its exception leaves, the others are cancelled."""
    tasks = [asyncio.create_task(job) for job in jobs]
    try:
        while tasks:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_EXCEPTION)
            for task in done:
                task.result()
            tasks = [task for task in tasks if task not in done]
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
