"""Takes values off a subscription or a read and sees them into Kafka, with the gaps between them.

Knows per item what came last, so it can say from when to when something is missing: after an overflow, a lost
notification, a time without subscription. Such a hole is filled from the server's history where the node is marked
`historised`; else a gap frame tells of it. Never drops a value but an exact repetition.
"""

import asyncio
import logging
import struct
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence

from connectors.framer import Reading
from connectors.opcua_binary import Value
from connectors.opcua_memory import Memory
from connectors.opcua_outlet import GapNote, Outlet
from connectors.opcua_values import Item, is_placeholder, overflowed, reading
from runtime.metrics import REPEATED
from schemas.frames import Gap

log = logging.getLogger(__name__)

#: History of an item between two times (exclusive), and whether it reaches back to the first. None: there is none.
Recall = Callable[[Item, int, int], Awaitable[tuple[list[Value], bool] | None]]
_Gaps = dict[tuple[str, int, int, str], list[str]]


class Intake:
    """Readings of one list of items. `memory` must be bound to the same items."""

    def __init__(self, items: Sequence[Item], memory: Memory, outlet: Outlet, recall: Recall) -> None:
        self.items = items
        self._memory = memory
        self._outlet = outlet
        self.recall = recall
        self.queue_sizes = [item.queue_size for item in items]  # as asked for, until the server has said what it keeps
        self._latest: list[Value | None] = [None] * len(items)
        self._holes: dict[int, str] = {}
        self._running: set[asyncio.Task[None]] = set()
        self._order = asyncio.Lock()
        self.heard_s = [0.0] * len(items)  # monotonic, when an item last gave a value

    def expect_hole(self, handles: Iterable[int], cause: str) -> None:
        """Something may be missing until these items' next value; from when is known from what came last."""
        for handle in handles:
            self._holes.setdefault(handle, cause)

    def latest(self, handle: int) -> Value | None:
        """The item's newest value of this process."""
        return self._latest[handle]

    def last_ns(self, handle: int) -> int | None:
        """Source time of the item's last value in Kafka."""
        return self._memory.last_ns(handle)

    async def take(
        self, values: Sequence[Value], may_have_overflowed: bool = False, sequence: int | None = None
    ) -> None:
        """See values into Kafka. Being cancelled does not stop what has begun; `settled` waits for that.

        `may_have_overflowed`: the server's queues had time to overflow, and not every server says that they did.
        `sequence`: number of the notification that they are, remembered when they are in Kafka.
        """
        task = asyncio.create_task(self._take(values, may_have_overflowed, sequence))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        await asyncio.shield(task)

    def lost(self, cause: str) -> None:
        """Notifications are lost and nobody knows of which items: each has a hole until its next value."""
        self.expect_hole((i for i, item in enumerate(self.items) if not item.cyclic), cause)

    @property
    def busy(self) -> bool:
        """Whether something that was taken is not in Kafka yet."""
        return bool(self._running)

    async def settled(self) -> None:
        """Wait until everything that was taken is in Kafka."""
        while self._running:
            await asyncio.wait(self._running)

    async def _take(self, values: Sequence[Value], may_have_overflowed: bool, sequence: int | None) -> None:
        async with self._order:
            arrival_ns, heard_s = time.time_ns(), time.monotonic()
            readings: list[Reading] = []
            gaps: _Gaps = {}
            last: dict[int, int] = {}
            values = [value for value in values if self._is_ours(value)]
            again = self._again(values)
            if may_have_overflowed:
                self._suspect_full_queues(values)
            for value in values:
                handle = value.handle
                self.heard_s[handle] = heard_s
                if self._is_repetition(value):
                    REPEATED.inc()
                    self._holes.pop(handle, None)  # nothing was written meanwhile
                    continue
                new = reading(self.items[handle], value, arrival_ns)
                if not is_placeholder(value.status):
                    since_ns = last.get(handle, self._memory.last_ns(handle))
                    last[handle] = new.source_time_ns
                    readings += await self._before(value, new, since_ns, handle in again, gaps)
                readings.append(new)
            if readings:
                await self._outlet.write(readings, _notes(gaps))
            for handle, time_ns in last.items():
                self._memory.remember(handle, time_ns)
            if sequence is not None:
                self._memory.sequence = sequence

    async def _before(
        self, value: Value, new: Reading, since_ns: int | None, again: bool, gaps: _Gaps
    ) -> list[Reading]:
        """What history has of the time since an item's last value where something may be missing before the new one;
        else the gap is noted."""
        handle, item, until_ns = value.handle, self.items[value.handle], new.source_time_ns
        overflow = overflowed(value.status)
        if since_ns is None or (until_ns == since_ns and not overflow) or (until_ns < since_ns and again):
            self._holes.pop(handle, None)  # the first reading ever, nothing was written meanwhile, or it comes again
            return []
        cause = "the server's queue overflowed" if overflow else self._holes.get(handle)
        if cause is None:
            return []
        if until_ns > since_ns:
            self._holes.pop(handle, None)  # an older one tells nothing of what came after the last
        recalled = await self._look_back(item, since_ns, until_ns, cause, gaps)
        return [reading(item, v, new.arrival_time_ns) for v in recalled]

    async def _look_back(self, item: Item, since_ns: int, until_ns: int, cause: str, gaps: _Gaps) -> list[Value]:
        """Notes a gap, or gives what history has of it. Times go back where a device's clock was set back."""
        found = await self.recall(item, since_ns, until_ns) if item.historised and since_ns < until_ns else None
        if found is None:
            ends = min(since_ns, until_ns), max(since_ns, until_ns)
            gaps.setdefault((item.asset, *ends, cause), []).append(item.tag)
            return []
        recalled, reaches_back = found
        if not reaches_back:
            end_ns = next((v.source_ns for v in recalled if v.source_ns), until_ns)
            gaps.setdefault((item.asset, since_ns, end_ns, cause), []).append(item.tag)
        return recalled

    def _is_ours(self, value: Value) -> bool:
        known = value.handle < len(self.items)
        if not known:
            log.warning("the server sent a value for an unknown item (handle %d)", value.handle)
        return known

    def _again(self, values: Sequence[Value]) -> set[int]:
        """Items whose last value in Kafka is among these: what is older comes again, after a kill or a cut."""
        return {v.handle for v in values if v.source_ns is not None and v.source_ns == self._memory.last_ns(v.handle)}

    def _suspect_full_queues(self, values: Sequence[Value]) -> None:
        for handle, n in Counter(value.handle for value in values).items():
            if n >= self.queue_sizes[handle]:
                self._holes.setdefault(handle, "the server's queue was full")

    def _is_repetition(self, value: Value) -> bool:
        before, self._latest[value.handle] = self._latest[value.handle], value
        return (
            before is not None
            and value.source_ns is not None
            and value.source_ns == before.source_ns
            and value.status == before.status
            and value.text == before.text
            and struct.pack("d", value.value) == struct.pack("d", before.value)
        )


def _notes(gaps: _Gaps) -> list[GapNote]:
    return [
        GapNote(asset=asset, gap=Gap(from_ns=start, to_ns=end, cause=cause), tags=tuple(tags))
        for (asset, start, end, cause), tags in gaps.items()
    ]
