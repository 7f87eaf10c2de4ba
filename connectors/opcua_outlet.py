"""The way from readings to Kafka: through the framer, out as frames, back when Kafka has them all.

One write at a time, so the order of frames per asset is the order of the writes. May not know OPC UA.
"""

import asyncio
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass

from connectors.delivery import Delivery
from connectors.framer import Framer, Reading
from connectors.reduction import Reducer
from schemas.frames import Frame, Gap


@dataclass(frozen=True, slots=True, kw_only=True)
class GapNote:
    """A gap frame to write: a hole in some tags of an asset (none: all of its tags)."""

    asset: str
    gap: Gap
    tags: tuple[str, ...] = ()


class Outlet:
    """Belongs to one event loop. Edge reduction happens here, after the gaps are known."""

    def __init__(self, framer: Framer, reducer: Reducer, delivery: Delivery) -> None:
        self._framer = framer
        self._reducer = reducer
        self._delivery = delivery
        self._busy = asyncio.Lock()

    async def write(self, readings: Iterable[Reading], gaps: Iterable[GapNote] = ()) -> None:
        """Gaps first, then the readings, in order. Returns when Kafka has confirmed all of them."""
        async with self._busy:
            now_ns = time.time_ns()
            for note in gaps:
                self._framer.gap(note.asset, note.gap, note.tags, now_ns)
            for reading in readings:
                for kept in self._reducer.keep(reading):
                    self._framer.add(kept, now_ns)
            await self._send(now_ns)

    async def tick(self) -> None:
        """Write the heartbeats that are due and what reduction held back for long enough; nothing while a write
        waits for Kafka, so nothing piles up."""
        if not self._busy.locked():
            await self._write_held(everything=False)

    async def finish(self) -> None:
        """Write everything that reduction holds back."""
        await self._write_held(everything=True)

    def expect(self, assets: Iterable[str]) -> None:
        """Assets that have heartbeats though they may give no reading at all."""
        now_ns = time.time_ns()
        for asset in dict.fromkeys(assets):
            self._framer.expect(asset, now_ns)

    def connected(self, up: bool) -> None:
        """Connection status that frames carry from now on."""
        self._framer.connected(up)

    def due_in_s(self) -> float | None:
        """Time until a heartbeat is due; None where there is no asset yet."""
        due_ns = self._framer.next_due_ns()
        return None if due_ns is None else max(0.0, (due_ns - time.time_ns()) / 1e9)

    async def _write_held(self, everything: bool) -> None:
        async with self._busy:
            now_ns = time.time_ns()
            for reading in self._reducer.overdue(now_ns, everything):
                self._framer.add(reading, now_ns)
            await self._send(now_ns)

    async def _send(self, now_ns: int) -> None:
        frames: list[Frame] = [frame for frame, _ in self._framer.due(now_ns, flush=True)]
        if not frames:
            return
        loop = asyncio.get_running_loop()
        all_confirmed = asyncio.Event()
        left, counting = len(frames), threading.Lock()

        def confirmed() -> None:  # by the thread of the client or that of the spool
            nonlocal left
            with counting:
                left -= 1
                is_last = left == 0
            if is_last:
                loop.call_soon_threadsafe(all_confirmed.set)

        for frame in frames:
            self._delivery.send(frame, confirmed)
        await all_confirmed.wait()
