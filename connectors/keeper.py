"""When the disk spool takes over from Kafka's client, what it keeps, what it gives up, and when it is over.

Belongs to one `Delivery`. While `_spooling`, every new record goes to the spool, and rows go from there to the client,
in order; else they go straight to the client. The way back is open when the client has all rows, so the order never
changes. What does not fit: where the field can wait, it waits (back-pressure); where it cannot, the oldest rows become
gap frames, as rows do that are too old. Runs in Delivery's thread; disk work is done without the lock.
"""

import logging
import time
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from connectors.dropped import Dropped, drop, merged
from connectors.producer import Record
from connectors.spool import Row, Spool, SpoolDamaged, SpoolTrouble
from runtime import config
from runtime.metrics import SPOOL_BYTES, SPOOL_DROPPED, SPOOL_FRAMES
from schemas.codec import DecodeError, decode, encode
from schemas.frames import Frame, Gap

if TYPE_CHECKING:
    from connectors.delivery import Delivery

log = logging.getLogger(__name__)

PART = "spool"
TICK_S = 0.2
RETRY_S = 1.0  # after the disk refused
FORGET_S = 0.5  # rows that Kafka has are deleted so often
WRITE_BYTES = 8 * 1024 * 1024  # in one transaction
LOAD_ROWS, LOAD_BYTES = 1000, 8 * 1024 * 1024  # from the disk into memory, at a time
ROOM = 0.9  # of the bound is left when the oldest rows had to go
TOO_OLD, TOO_MUCH, NO_DISK = "spool: too old", "spool: full", "spool: no disk"


@dataclass(frozen=True, slots=True, kw_only=True)
class Spooling:
    """Where a connector's spool is and how much it may hold. `drops`: whether the field cannot wait."""

    directory: Path
    connector_id: str
    limits: config.Spool
    drops: bool


class Keeper:
    """`keep`, `make_room` and `hurry` are called under Delivery's lock, `tend` and `close` without it."""

    def __init__(self, delivery: "Delivery", spooling: Spooling) -> None:
        self.connector_id = spooling.connector_id
        self._delivery = delivery
        self._limits = spooling.limits
        self._drops = spooling.drops
        self._spool = Spool(spooling.directory, spooling.connector_id)
        self._spooling = self._spool.exists()  # what an earlier process left goes first
        self._direct: deque[Record] = deque()  # on the client's way and not safe, in order
        self._arrived: deque[Record] = deque()  # to be written to the spool, in order
        self._writing = False  # the first of them are being written
        self._full = False  # the field waits
        self._stuck = False  # `health` says that nothing can be written
        self._since_ns = 0
        self._loaded = 0  # rows up to this number are on the client's way, or were
        self._after_s = spooling.limits.after_s
        self._retry_at_s = self._forget_at_s = self._age_at_s = 0.0
        delivery.health.describe(PART, lambda: {"records": self._spool.rows, "bytes": self._spool.bytes})
        self._told = ""  # the trouble that an alert was written for

    def keep(self, record: Record) -> bool:
        """Take a new record for the spool; False where it goes straight to the client, with an eye on it."""
        if self._spooling:
            self._arrived.append(record)
            self._delivery.changed.notify_all()
        else:
            while self._direct and self._direct[0].safe:
                self._direct.popleft()
            self._direct.append(record)
        return self._spooling

    def make_room(self) -> bool:
        """The memory is full: where the field cannot wait, merge what could not be written. False: wait."""
        if not self._drops or self._writing:
            return False
        before = sum(len(r.value) for r in self._arrived)
        kept, readings = _merge(self._arrived)
        after = sum(len(r.value) for r in kept)
        self._delivery.account(after - before)
        here = set(map(id, kept))
        gone = [r for r in self._arrived if id(r) not in here]
        self._arrived = deque(kept)
        SPOOL_DROPPED.inc(readings)
        self._delivery.tell_safe(gone)
        return after < before

    def hurry(self) -> None:
        """Take over now: the process ends."""
        self._after_s = 0.0
        self._delivery.changed.notify_all()

    def tend(self) -> None:
        """One round of work, or a short wait for some."""
        with self._delivery.changed:
            idle = not (self._spooling or self._spool.is_open or self._stuck or self._is_late())
        if idle:
            time.sleep(TICK_S)
            return
        try:
            if not self._work():
                with self._delivery.changed:
                    self._delivery.changed.wait(TICK_S / 4)
        except SpoolTrouble as error:
            self._retry_at_s = time.monotonic() + RETRY_S
            self._stuck = True
            self._ill(f"cannot be used: {error}")
        except SpoolDamaged as error:
            self._rescue(error)
        SPOOL_FRAMES.set(self._spool.rows)
        SPOOL_BYTES.set(self._spool.bytes)

    def close(self) -> None:
        """Let go of the file."""
        self._spool.close()

    def _is_late(self) -> bool:
        while self._direct and self._direct[0].safe:
            self._direct.popleft()
        return bool(self._direct) and time.monotonic() - self._direct[0].since_s >= self._after_s

    def _work(self) -> bool:
        """Whether something was done. What needs no room on the disk goes on where there is none."""
        if not self._spooling and self._is_late():
            self._take_over()
        moved = self._go_straight() or self._clear_away()
        if time.monotonic() < self._retry_at_s:
            return (self._spool.is_open and self._load()) or moved
        if self._spooling or self._spool.is_open:
            if not self._spool.is_open:
                self._spool.open(self._since_ns)
                if self._spool.rows:
                    log.info("the spool has %d records of an earlier process", self._spool.rows)
            moved = self._load() or moved
            self._forget()
            self._drop_old()
            moved = self._write() or moved
        return moved

    def _take_over(self) -> None:
        with self._delivery.changed:
            self._spooling = True
            age_s = time.monotonic() - self._direct[0].since_s if self._direct else 0.0
            self._since_ns = time.time_ns() - int(age_s * 1e9)
            self._delivery.doubt()
        log.warning("Kafka has not confirmed for %.1f s: the disk spool takes over", age_s)

    def _write(self) -> bool:
        """Bring what is not safe to the disk, in order."""
        with self._delivery.changed:
            if not self._spooling:
                return False
            direct = [r for r in self._direct if not r.safe]
            self._full = self._full and self._spool.bytes > ROOM * self._limits.bytes_max
            arrived = [] if self._full else self._that_fit(self._limits.bytes_max - self._spool.bytes)
            self._writing = bool(arrived)
            full = bool(self._arrived) and not arrived
        if full and self._make_room_on_disk():
            return True
        if not direct and not arrived:
            return False
        batch = [*direct, *arrived]
        try:
            first = self._spool.append([(r.topic, r.key, r.value) for r in batch], time.time_ns())
        except BaseException:
            self._writing = False
            raise
        with self._delivery.changed:
            self._writing = False  # not sooner: until they have left `_arrived` nobody may merge them
            for number, record in enumerate(direct, first):
                record.row = number
            if direct:
                self._loaded = first + len(direct) - 1
            self._direct.clear()
            for record in arrived:
                self._arrived.popleft()
                self._delivery.account(-len(record.value))
        self._delivery.tell_safe(batch)
        if self._stuck:
            self._stuck = False
            self._well()
        return True

    def _that_fit(self, room: int) -> list[Record]:
        found: list[Record] = []
        size = 0
        for record in self._arrived:
            size += len(record.value)
            if size > min(room, WRITE_BYTES) and (found or size > room):
                break
            found.append(record)
        return found

    def _make_room_on_disk(self) -> bool:
        """Full: where the field cannot wait, the oldest rows go. False: it waits."""
        if not self._drops:
            self._full = self._stuck = True
            self._ill("full: the field has to wait")
            return False
        gone = drop(self._spool, self._loaded, None, int(self._limits.bytes_max * ROOM), TOO_MUCH)
        self._tell_dropped(gone, TOO_MUCH)
        return gone.rows > 0

    def _forget(self) -> None:
        """Delete rows that Kafka has."""
        now_s = time.monotonic()
        if now_s < self._forget_at_s:
            return
        self._forget_at_s = now_s + FORGET_S
        with self._delivery.changed:
            up_to = next((r.row - 1 for r in self._delivery.on_the_way() if r.row), self._loaded)
        self._spool.delete(up_to)

    def _drop_old(self) -> None:
        now_s = time.monotonic()
        if now_s < self._age_at_s:
            return
        self._age_at_s = now_s + min(10.0, self._limits.age_max_s / 10)
        before_ns = time.time_ns() - int(self._limits.age_max_s * 1e9)
        gone = drop(self._spool, self._loaded, before_ns, 0, TOO_OLD)
        if gone.readings or gone.others:
            self._tell_dropped(gone, TOO_OLD)

    def _load(self) -> bool:
        """Put the oldest rows on the client's way, a window of them."""
        with self._delivery.changed:
            on_the_way = self._delivery.on_the_way()
            away = self._delivery.away
        if self._loaded >= self._spool.last_id or len(on_the_way) >= LOAD_ROWS or (away and on_the_way):
            return False
        size = sum(len(r.value) for r in on_the_way)
        if size >= LOAD_BYTES:
            return False
        rows = self._spool.read(self._loaded, 1 if away else LOAD_ROWS, LOAD_BYTES - size)
        records = [_record(row) for row in rows]
        with self._delivery.changed:
            for record in records:
                self._delivery.account(len(record.value))
                self._delivery.pass_on(record)
            self._loaded = rows[-1].id if rows else self._spool.last_id
            self._delivery.feed()
        return bool(rows)

    def _go_straight(self) -> bool:
        """Every row is with the client and Kafka confirms: new records need no disk any more."""
        with self._delivery.changed:
            if not self._spooling or self._loaded < self._spool.last_id or self._delivery.away:
                return False
            if any(not r.safe for r in self._direct):
                return False  # they are on the client's way, but no disk took them
            if not self._spool.is_open and self._spool.exists():
                return False  # nobody knows what is in it
            self._spooling = self._full = False
            for record in self._arrived:
                self._direct.append(record)
                self._delivery.pass_on(record)
            self._arrived.clear()
            self._delivery.feed()
        return True

    def _clear_away(self) -> bool:
        """Delete the file when Kafka has everything that was in it."""
        with self._delivery.changed:
            if self._spooling or any(r.row for r in self._delivery.on_the_way()):
                return False
        if time.monotonic() < self._retry_at_s:
            return False
        if self._spool.is_open:
            log.info("Kafka has everything that was in the spool")
        self._spool.remove()
        self._loaded = 0
        self._told = ""
        self._stuck = False
        self._well()
        return True

    def _rescue(self, error: SpoolDamaged) -> None:
        since_ns = self._spool.since_ns
        log.error("the spool is damaged: %s", error)
        try:
            missing, aside = self._spool.rescue(self._delivery.beat)
        except SpoolTrouble as trouble:
            self._retry_at_s = time.monotonic() + RETRY_S
            self._ill(f"damaged ({error}), and cannot be set aside: {trouble}")
            return
        now_ns = time.time_ns()
        message = f"the spool was damaged ({error}); up to {missing} records are lost; the file is now {aside.name}"
        log.error("%s", message)
        if missing:
            self._delivery.losses.append(Gap(from_ns=min(since_ns, now_ns), to_ns=now_ns, cause="spool: damaged"))
        self._delivery.alert(message, now_ns)

    def _tell_dropped(self, gone: Dropped, cause: str) -> None:
        SPOOL_DROPPED.inc(gone.readings)
        what = f"{gone.readings} readings and {gone.others} other records dropped"
        log.error("%s: %s", cause, what)
        self._ill(cause.removeprefix("spool: ") + ": the oldest readings become gap frames")

    def _ill(self, reason: str) -> None:
        self._delivery.health.ill(PART, reason)
        if self._told != reason:
            self._told = reason
            self._delivery.alert(f"{self.connector_id}: the spool is {reason}", time.time_ns())

    def _well(self) -> None:
        if self._delivery.health.reason(PART):
            self._delivery.health.well(PART, "works")


def _record(row: Row) -> Record:
    try:
        decoded = decode(row.value)
    except DecodeError as error:  # written by a newer version of us: it passes as it is
        log.warning("row %d of the spool is not of this version: %s", row.id, error)
        decoded = None
    frame = decoded if isinstance(decoded, Frame) else None
    return Record(row.topic, row.key, row.value, _nothing, frame, row=row.id, safe=True)


def _merge(records: Iterable[Record]) -> tuple[list[Record], int]:
    """Records in order, with one gap frame per asset and epoch instead of all frames."""
    groups: dict[tuple[str, int], list[Record]] = {}
    kept: list[Record] = []
    for record in records:
        if record.frame is None:
            kept.append(record)
        else:
            groups.setdefault((record.key, record.frame.epoch), []).append(record)
    lost = 0
    for group in groups.values():
        stands = merged([r.frame for r in group if r.frame is not None], NO_DISK)
        lost += stands.readings
        last = group[-1]
        last.frame, last.value = stands.frame, encode(stands.frame)
        kept.append(last)
    return kept, lost


def _nothing() -> None:
    """A row of the spool was acknowledged when it was written."""
