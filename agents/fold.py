"""The fold of one stage over the partitions this process owns, and its checkpoints. Knows Kafka, but not Faust.

Frames are applied in memory and their outputs sent at once, so the next stage does not wait for a checkpoint. A
checkpoint then makes it durable, in this order: wait until Kafka has the outputs, write the state rows and wait for
them, commit the input. So a row that says "applied" always means "its outputs are in Kafka", and a process killed
between any two steps leaves at worst outputs that come again, identical, which the next stage drops by identity.
"""

import asyncio
import logging
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

from agents.outbox import Outbox, Receipts, TooLarge
from agents.ownership import Partition
from kernels.around import lost_frames, too_large
from kernels.stage import Stage
from runtime.changelog import Row, pack
from runtime.metrics import FRAMES, LAST_READING_TIME, LOST_FRAMES, READINGS, REJECTED, REPEATED
from runtime.partitions import misplaced
from schemas.codec import DecodeError, Record, decode_as, encode
from schemas.frames import Frame
from schemas.records import KEY_BYTES_MAX, OUTPUT_TOO_LARGE, Rejected
from schemas.states import StageState
from schemas.topics import ALERTS, Topic
from schemas.topics import REJECTED as REJECTED_TOPIC

log = logging.getLogger(__name__)

ROWS_AT_ONCE = 50

Outputs = Callable[[Any], Sequence[tuple[Topic, bytes, Record]]]
FailPoint = Callable[[str], None]


def nothing(_point: str) -> None:
    """The fail point of production: does not fail."""


@dataclass(slots=True)
class Unsaved:
    """What happened since the last checkpoint."""

    receipts: Receipts = field(default_factory=Receipts)
    changed: dict[str, Partition] = field(default_factory=dict)
    next: dict[Partition, int] = field(default_factory=dict)
    frames: int = 0
    readings: int = 0
    newest_ns: int = 0


@dataclass(slots=True)
class Term:
    """State of one assignment of partitions: rows per asset, and what is not saved yet."""

    rows: dict[str, Row] = field(default_factory=dict)
    unsaved: Unsaved = field(default_factory=Unsaved)


class Fold:
    """Applies frames of `source` to the states of their assets.

    `commit(offsets)` acknowledges the input; `refuse_zombie()` leaves the process if it stood still; `table` is
    Faust's store of the rows. `fail_point(name)` is for tests: it is told "outputs", "rows" and "ack" when outputs
    and rows are in Kafka and right before the acknowledgement.
    """

    def __init__(
        self,
        *,
        prefix: str,
        partitions: int,
        stage: Stage[Any, Any, Any],
        params: Any,
        source: Topic,
        outputs: Outputs,
        changelog: Topic,
        checkpoint_frames: int,
        outbox: Outbox,
        table: MutableMapping[bytes, bytes],
        commit: Callable[[dict[Partition, int]], Any],
        refuse_zombie: Callable[[], None],
        fail_point: FailPoint = nothing,
    ) -> None:
        self._prefix, self._partitions = prefix, partitions
        self._stage, self._params, self._source, self._outputs = stage, params, source, outputs
        self._changelog = changelog.full_name(prefix)
        self._checkpoint_frames = checkpoint_frames
        self._outbox, self._table, self._commit = outbox, table, commit
        self._refuse_zombie, self._fail_point = refuse_zombie, fail_point
        self._taking = asyncio.Lock()  # a checkpoint begins between two frames: sending may wait in the middle of one
        self._saving = asyncio.Lock()
        self._writing = asyncio.Lock()
        self._term = Term()

    def begin(self, rows: dict[str, Row], rewrite: dict[str, Partition]) -> None:
        """A new assignment with the states recovered; those in `rewrite` are written again at the next checkpoint."""
        self._term = Term(rows=rows, unsaved=Unsaved(changed=rewrite))

    async def end(self) -> None:
        """The assignment is over: forget it, and return when no row of it is on its way any more."""
        self._term = Term()
        async with self._writing:
            pass

    def frame(self, tp: Partition, key: bytes | None, value: bytes | None) -> Frame:
        """The frame in a record. Raises DecodeError, also where its asset's frames do not belong into this partition:
        they must share one, else its state would be in two places.
        """
        frame = cast(Frame, decode_as(value or b"", self._source.record))
        wrong = misplaced(frame.asset, key, tp.partition, self._partitions)
        if wrong is not None:
            raise DecodeError(wrong)
        return frame

    async def take(self, tp: Partition, offset: int, key: bytes | None, value: bytes | None) -> None:
        """Apply one record. The caller saw to it that it is the next of its partition."""
        async with self._taking:
            term = self._term
            try:
                frame = self.frame(tp, key, value)
            except DecodeError as error:
                await self._reject(term, tp, offset, key=key or b"", payload=value or b"", reason=str(error))
            else:
                await self._apply(term, tp, offset, frame, value or b"")
            term.unsaved.next[tp] = offset + 1
            term.unsaved.frames += 1
        if term.unsaved.frames >= self._checkpoint_frames:
            await self.save()

    async def save(self) -> None:
        """A checkpoint: all that was taken becomes durable and is acknowledged. One at a time."""
        async with self._saving:
            async with self._taking:
                term = self._term
                saved, term.unsaved = term.unsaved, Unsaved()
                changed = [(asset, tp, term.rows[asset]) for asset, tp in saved.changed.items()]
            if not saved.next and not saved.changed:
                return
            await saved.receipts.wait()
            self._fail_point("outputs")
            async with self._writing:
                if term is self._term:
                    await self._write_rows(term, changed)
            if term is not self._term:
                return
            self._fail_point("ack")
            if saved.next and await self._commit(saved.next):
                _count(saved)

    async def _write_rows(self, term: Term, changed: list[tuple[str, Partition, Row]]) -> None:
        receipts = Receipts()
        for n, (asset, tp, row) in enumerate(changed):
            if n % ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if term is not self._term:
                break
            key, data = asset.encode(), pack(row)
            self._refuse_zombie()
            await self._outbox.send(receipts, self._changelog, key, data, tp.partition)
            self._table[key] = data
        await receipts.wait()
        self._fail_point("rows")

    async def _apply(self, term: Term, tp: Partition, offset: int, frame: Frame, value: bytes) -> None:
        asset, identity = frame.asset, frame.identity
        row = term.rows.get(asset)
        state = self._stage.initial(asset) if row is None else row.state
        read_again = row is not None and offset <= row.position
        if state.has_applied(identity) or (read_again and state.may_have_forgotten(identity)):
            REPEATED.inc()
            return
        lost = state.lost_before(identity)
        new: StageState
        records: Sequence[tuple[Topic, bytes, Record]]
        try:
            new, out, rejects = self._stage.step(state, frame, self._params)
            if reason := too_large(new, grew=len(new.tags) > len(state.tags)):
                raise TooLarge(reason)
            records = [] if out is None else self._outputs(out)
            encoded = [(topic, key, encode(record)) for topic, key, record in records]
        except TooLarge as error:
            new, encoded, rejects = state.with_applied(identity), [], ()
            await self._reject(term, tp, offset, key=asset.encode(), payload=value, reason=str(error))
        except Exception as error:
            # A bug of the stage. The frame is dealt with, so that a repetition is not rejected again; its identity is
            # missing from the output, which the next stage sees as a lost frame.
            log.exception("%s: step failed at %s/%d offset %d", self._stage.name, *tp, offset)
            new, encoded, rejects = state.with_applied(identity), [], ()
            reason, time_ns = f"step failed: {error!r}", frame.time_ns
            await self._reject(term, tp, offset, key=asset.encode(), payload=value, reason=reason, time_ns=time_ns)
        if lost:
            await self._warn_of_loss(term, tp, frame, lost)
        for rejected in rejects:
            placed = replace(rejected, topic=tp.topic, partition=tp.partition, offset=offset)
            await self._send(term, tp, REJECTED_TOPIC, asset.encode(), encode(placed.fitting()))
            REJECTED.inc()
        try:
            for topic, key, data in encoded:
                await self._send(term, tp, topic, key, data)
        except TooLarge as error:
            reason, time_ns = f"{OUTPUT_TOO_LARGE}: {error}", frame.time_ns
            await self._reject(term, tp, offset, key=asset.encode(), payload=value, reason=reason, time_ns=time_ns)
        term.rows[asset] = Row(offset, new)
        unsaved = term.unsaved
        unsaved.changed[asset] = tp
        unsaved.readings += len(frame)
        if len(frame):
            unsaved.newest_ns = int(frame.arrival_time_ns[-1])

    async def _send(self, term: Term, tp: Partition, topic: Topic, key: bytes, data: bytes) -> None:
        receipts = term.unsaved.receipts
        await self._outbox.send(receipts, topic.full_name(self._prefix), key, data, tp.partition)

    async def _reject(
        self, term: Term, tp: Partition, offset: int, *, key: bytes, payload: bytes, reason: str, time_ns: int = 0
    ) -> None:
        rejected = Rejected(
            stage=self._stage.name,
            reason=reason,
            asset=key.decode("utf-8", "replace"),
            topic=tp.topic,
            partition=tp.partition,
            offset=offset,
            time_ns=time_ns,
            payload=payload,
        )
        await self._send(term, tp, REJECTED_TOPIC, key[:KEY_BYTES_MAX], encode(rejected.fitting()))
        REJECTED.inc()

    async def _warn_of_loss(self, term: Term, tp: Partition, frame: Frame, lost: int) -> None:
        LOST_FRAMES.inc(lost)
        alert = lost_frames(self._stage.name, frame, lost)
        await self._send(term, tp, ALERTS, frame.asset.encode(), encode(alert))


def _count(saved: Unsaved) -> None:
    FRAMES.inc(saved.frames)
    READINGS.inc(saved.readings)
    if saved.newest_ns:
        LAST_READING_TIME.set(saved.newest_ns / 1e9)
