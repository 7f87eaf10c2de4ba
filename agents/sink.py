"""The sink: estimates, twin states and alerts from Kafka into InfluxDB.

A batch is acknowledged only after InfluxDB has answered for every line of it. What InfluxDB cannot store goes to the
topic of rejected records, one reading at a time, and never holds up its neighbours. A database that does not answer
holds up only this process.

After its readings a frame gets a point of its own (`reactor_frame`) that says when InfluxDB confirmed them; it
travels with the next lines, or half a second later when there are none. Rule: knows Kafka through `agents.stage` only.
"""

import asyncio
import logging
import time
from bisect import bisect_right
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace

from agents import stage
from agents.fold import FailPoint, nothing
from agents.stage import Received
from runtime import metrics
from runtime.config import Plant
from schemas.codec import DecodeError, Record, decode, encode
from schemas.frames import EstimateFrame, columns_of
from schemas.records import Alert, Rejected, TwinState
from schemas.topics import ALERTS, ESTIMATES, STATE
from store.influx_writer import InfluxWriter, Unwanted
from store.line_protocol import UnstorableError, frame_line
from store.record_lines import lines_of

log = logging.getLogger(__name__)

NAME = "sink"
SOURCES = (ESTIMATES, STATE, ALERTS)
#: A request is sent when it has so many characters, however few lines they are (a text may be long).
REQUEST_CHARACTERS = 16_000_000
CONFIRMATIONS_WAIT_S = 0.5
PATIENCE_S = 2.0

_REFUSED = "%d of %d lines cannot be stored, they go to the rejected records; the first: %r"

#: The kind of alert for a token, organisation or bucket that InfluxDB refuses.
UNAUTHORISED = "sink_unauthorised"

Reject = Callable[[Rejected], Awaitable[None]]
Warn = Callable[[Alert], Awaitable[None]]


def run(plant: Plant, fail_point: FailPoint = nothing) -> int:
    """Store until SIGTERM or SIGINT; return the exit code."""
    sink = Sink(plant, reject=stage.reject, warn=stage.alert, heartbeat=stage.heartbeat)
    return stage.run_tableless(plant, NAME, SOURCES, sink.handle, on_stop=sink.close, fail_point=fail_point)


@dataclass(slots=True)
class _Request:
    """Lines of one request, and where each comes from: `starts[i]` is the first line of `origins[i]`."""

    lines: list[str] = field(default_factory=list)
    characters: int = 0
    starts: list[int] = field(default_factory=list)
    origins: list[Received | None] = field(default_factory=list)
    frames: list[EstimateFrame] = field(default_factory=list)

    def add(self, lines: Sequence[str], origin: Received | None) -> None:
        """Append lines; `origin` None: our own, nobody's record."""
        self.starts.append(len(self.lines))
        self.origins.append(origin)
        self.lines.extend(lines)
        self.characters += sum(map(len, lines))

    def origin(self, index: int) -> Received | None:
        """The record that line `index` comes from."""
        return self.origins[bisect_right(self.starts, index) - 1]

    def place(self, index: int) -> int:
        """Which line of its record line `index` is."""
        return index - self.starts[bisect_right(self.starts, index) - 1]


class Sink:
    """Turns batches of records into points.

    `reject` is awaited for everything that cannot be stored, `warn` once when InfluxDB begins to refuse our token,
    organisation or bucket; `heartbeat` is called every few seconds while waiting for InfluxDB.
    """

    def __init__(self, plant: Plant, *, reject: Reject, warn: Warn, heartbeat: Callable[[], None]) -> None:
        self._plant = plant
        self._reject = reject
        self._warn = warn
        self._heartbeat = heartbeat
        self._writer = InfluxWriter(plant.influxdb, plant.sink.timeout_s, self._on_refused)
        self._confirmations: list[str] = []
        self._later: asyncio.TimerHandle | None = None
        self._late_write: asyncio.Task[None] | None = None

    async def handle(self, batch: Sequence[Received]) -> None:
        """Store a batch; returns when InfluxDB has all of it, or Kafka has it among the rejected."""
        if self._later is not None:
            self._later.cancel()
        request, under_way = self._new_request(), asyncio.create_task(_nothing())
        for received in batch:
            await self._add(request, received)
            if len(request.lines) >= self._plant.sink.batch_lines or request.characters >= REQUEST_CHARACTERS:
                # One request at a time: of two states with one event time the later must win.
                await self._patiently(under_way)
                under_way, request = asyncio.create_task(self._store(request)), self._new_request()
            if not under_way.done():
                await asyncio.sleep(0)  # the request makes its way while the next one is built
        await self._patiently(under_way)
        await self._patiently(asyncio.create_task(self._store(request)))
        if self._confirmations:
            self._later = asyncio.get_running_loop().call_later(CONFIRMATIONS_WAIT_S, self._write_late)

    async def close(self) -> None:
        """Write the last confirmations if InfluxDB takes them at once, and close the connection."""
        if self._later is not None:
            self._later.cancel()
        try:
            async with asyncio.timeout(PATIENCE_S):
                if self._late_write is not None:
                    await self._late_write
                await self._writer.write(self._taken_confirmations())
        except TimeoutError:
            log.warning("the last times of storage were not written, InfluxDB does not answer; readings are complete")
        await self._writer.close()

    def _new_request(self) -> _Request:
        request = _Request()
        request.add(self._taken_confirmations(), None)
        return request

    def _taken_confirmations(self) -> list[str]:
        taken, self._confirmations = self._confirmations, []
        return taken

    def _write_late(self) -> None:
        self._late_write = asyncio.create_task(self._store(self._new_request()))

    async def _add(self, request: _Request, received: Received) -> None:
        record: Record | None = None
        try:
            record = decode(received.value)
            lines, refused = lines_of(record)
        except (DecodeError, UnstorableError) as error:
            time_ns = record.time_ns if isinstance(record, Alert | TwinState) else 0
            await self._refuse(received, str(error), received.value, time_ns=time_ns)
            return
        if isinstance(record, EstimateFrame):
            if refused:
                log.warning(_REFUSED, len(refused), len(record), refused[0].reason)
            for row, reason in refused:
                one = encode(_only(record, row))
                await self._refuse(received, reason, one, record.tags[record.tag[row]], _arrival_ns(record, row))
            if lines:
                request.frames.append(record)
        elif isinstance(record, TwinState):
            for row, reason in refused:
                window = record.windows[row]
                one = encode(replace(record, windows=(window,)))
                await self._refuse(received, reason, one, window.tag, record.time_ns)
        if lines:
            request.add(lines, received)

    async def _refuse(self, received: Received, reason: str, payload: bytes, tag: str = "", time_ns: int = 0) -> None:
        await self._reject(
            Rejected(
                stage=NAME,
                reason=reason,
                asset=received.key.decode("utf-8", "replace"),
                tag=tag,
                topic=received.topic.full_name(self._plant.kafka.prefix),
                partition=received.partition,
                offset=received.offset,
                time_ns=time_ns,
                payload=payload,
            )
        )

    async def _on_refused(self, sentence: str) -> None:
        now_ns = time.time_ns()
        await self._warn(Alert(asset=NAME, kind=UNAUTHORISED, severity="critical", time_ns=now_ns, message=sentence))

    async def _store(self, request: _Request) -> None:
        refused = await self._writer.write(request.lines)
        if refused:
            log.warning(_REFUSED, len(refused), len(request.lines), refused[0].reason)
        for unwanted in refused:
            await self._refuse_line(request, unwanted)
        stored_ns = time.time_ns()
        for frame in request.frames:
            self._confirm(frame, stored_ns)

    async def _refuse_line(self, request: _Request, unwanted: Unwanted) -> None:
        origin, line = request.origin(unwanted.line), request.lines[unwanted.line]
        if origin is None:
            log.error("InfluxDB does not take a time of storage: %s (%s)", unwanted.reason, line[:200])
            return
        record, tag, time_ns = decode(origin.value), "", 0
        if isinstance(record, EstimateFrame):
            unstorable = {row for row, _ in lines_of(record)[1]}
            row = [r for r in range(len(record)) if r not in unstorable][request.place(unwanted.line)]
            tag, time_ns = record.tags[record.tag[row]], _arrival_ns(record, row)
        elif isinstance(record, Alert | TwinState):
            time_ns = record.time_ns
        await self._refuse(origin, unwanted.reason, line.encode(), tag, time_ns)

    async def _patiently(self, task: asyncio.Task[None]) -> None:
        """Wait for a task however long it takes, and keep saying that this is on purpose."""
        while not task.done():
            await asyncio.wait({task}, timeout=PATIENCE_S)
            self._heartbeat()
        task.result()

    def _confirm(self, frame: EstimateFrame, stored_ns: int) -> None:
        oldest_ns, newest_ns = int(frame.arrival_time_ns.min()), int(frame.arrival_time_ns.max())
        metrics.FRAMES.inc()
        metrics.READINGS.inc(len(frame))
        metrics.STORED_AFTER.observe((stored_ns - oldest_ns) / 1e9)
        metrics.LAST_READING_TIME.set(newest_ns / 1e9)
        try:
            self._confirmations.append(frame_line(frame, stored_ns))
        except UnstorableError as error:
            log.warning("no time of storage for a frame of %s: %s", frame.asset, error)


async def _nothing() -> None:
    """The task before the first request."""


def _only(frame: EstimateFrame, row: int) -> EstimateFrame:
    """A frame with one reading of a frame, so that this one alone can be looked at and stored later."""
    columns = {name: getattr(frame, name)[row : row + 1] for name in columns_of(EstimateFrame)}
    texts = {0: frame.texts[row]} if row in frame.texts else {}
    return replace(frame, texts=texts, repeated=0, **columns)


def _arrival_ns(frame: EstimateFrame, row: int) -> int:
    return int(frame.arrival_time_ns[row])
