"""Sends rejected records again, each with the effect of once: see docs/decisions/0010-retry.md.

What comes back into the flow is a frame with an identity of its own (source `<connector>/retry-<topic>`, epoch of this
run, seq from 0), and that frame is written down before it is sent. A run that was killed is finished by the next one,
which sends the same bytes again, and stages drop what they have applied. What the sink rejected goes to InfluxDB
itself, where the same point overwrites itself.
"""

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from cli.rejected_log import Place, Plan, RejectedLog, frame_in
from connectors.retry import StillBadError, frame_again
from runtime.config import Plant
from runtime.kafka import client_settings
from runtime.partitions import home_partition
from schemas.codec import DecodeError, decode, decode_as, encode
from schemas.frames import Frame, ValidatedFrame
from schemas.quality import Flag, Test
from schemas.records import (
    OUTPUT_TOO_LARGE,
    PAYLOAD_BYTES_MAX,
    RETRY_DONE,
    RETRY_PLANNED,
    Rejected,
)
from schemas.topics import MAX_RECORD_BYTES, RAW, REJECTED, VALIDATED, Topic
from store.influx_writer import InfluxWriter
from store.line_protocol import UnstorableError
from store.record_lines import lines_of

AT_ONCE = 100
DELIVERY_S = 60.0
INFLUXDB_S = 60.0
RETRIED = "/retry-"
TOPIC_OF: dict[type[Frame], Topic] = {Frame: RAW, ValidatedFrame: VALIDATED}
INPUT_OF: dict[str, type[Frame]] = {"validation": Frame, "estimation": ValidatedFrame}
MQTT = "connector.mqtt"
DRY = "would be sent"
#: What begins a line of protocol, and cannot begin a record of ours.
LINE = b"reactor_"


class Outcome(NamedTuple):
    """What became of one record. `good`: it is sent, or was before."""

    place: Place
    good: bool
    says: str


class Retry:
    """One run. `fail_point(name)` is for tests: it is told "planned" when Kafka has the plans, "sent" when it has the
    frames.
    """

    def __init__(self, plant: Plant, log: RejectedLog, fail_point: Callable[[str], None] = lambda _: None) -> None:
        self.plant, self.log, self.fail_point = plant, log, fail_point
        self._producer: Producer | None = None  # made when something is to be sent

    def run(self, chosen: Sequence[Place]) -> Iterator[Outcome]:
        """Send these again, and first finish what an earlier run began. Raises KafkaException, InfluxdbError."""
        epoch = max(time.time_ns(), self.log.newest_epoch + 1)
        self._finish()
        for first in range(0, len(chosen), AT_ONCE):
            yield from self._some(chosen[first : first + AT_ONCE], epoch)

    def would(self, chosen: Sequence[Place]) -> Iterator[Outcome]:
        """What `run` would do, as far as it can be told without doing it."""
        for place in chosen:
            settled = self._settled(place)
            try:
                yield settled or Outcome(place, True, _described(again(self.log.read([place])[place], self.plant)))
            except StillBadError as error:
                yield Outcome(place, False, f"still bad: {error}")

    def _settled(self, place: Place) -> Outcome | None:
        """The outcome where nothing is to be done."""
        entry = self.log.entries.get(place)
        if entry is None:
            return Outcome(place, False, "no rejected record there")
        return None if entry.is_open else Outcome(place, True, f"not sent again: {entry.status}")

    def _some(self, places: Sequence[Place], epoch: int) -> Iterator[Outcome]:
        settled = {place: self._settled(place) for place in places}
        yield from (outcome for outcome in settled.values() if outcome is not None)
        frames: dict[Place, Frame] = {}
        for place, rejected in self.log.read(p for p, outcome in settled.items() if outcome is None).items():
            try:
                found = again(rejected, self.plant)
                if isinstance(found, Frame):
                    frames[place] = found
                else:
                    yield self._store(place, found)
            except StillBadError as error:
                yield Outcome(place, False, f"still bad: {error}")
        waiting = dict(frames)
        while waiting:
            self._plan(waiting, epoch)
            self.log.update()
            waiting = {place: frame for place, frame in waiting.items() if place not in self.log.plans}
        self.fail_point("planned")
        self._finish()
        for place in frames:
            yield Outcome(place, True, self.log.entries[place].status)

    def _plan(self, frames: dict[Place, Frame], epoch: int) -> None:
        """Write down which frames are to be sent, each with the next identity of its chain."""
        used: Counter[tuple[str, str]] = Counter()
        plans = []
        for place, frame in sorted(frames.items()):
            chain = (frame.asset, frame.source)
            seq = self.log.next_seq(*chain, epoch) + used[chain]
            used[chain] += 1
            plans.append(self._mark(RETRY_PLANNED, place, encode(replace(frame, epoch=epoch, seq=seq))))
        self._deliver(plans)

    def _finish(self) -> None:
        """Send what is planned and not known to be sent, in the order of the plans, and write down that it was."""
        pending = self.log.pending()
        for first in range(0, len(pending), AT_ONCE):
            some = pending[first : first + AT_ONCE]
            planned = self.log.read(plan.place for plan in some)
            self._deliver([self._to_its_stage(planned[plan.place].payload) for plan in some])
            self.fail_point("sent")
            done = [self._mark(RETRY_DONE, p.record, b"", _sent_as(p)) for p in some]
            self._deliver(done)
        if pending:
            self.log.update()

    def _to_its_stage(self, payload: bytes) -> tuple[str, str, bytes]:
        frame = frame_in(payload)
        return TOPIC_OF[type(frame)].full_name(self.plant.kafka.prefix), frame.asset, payload

    def _store(self, place: Place, lines: list[str]) -> Outcome:
        unwanted = asyncio.run(_written(self.plant, lines))
        if unwanted:
            return Outcome(place, False, f"still bad: {'; '.join(unwanted[:3])}")
        self._deliver([self._mark(RETRY_DONE, place, b"", f"stored, {len(lines)} points")])
        return Outcome(place, True, f"stored, {len(lines)} points")

    def _mark(self, stage: str, place: Place, payload: bytes, reason: str = "") -> tuple[str, str, bytes]:
        topic = REJECTED.full_name(self.plant.kafka.prefix)
        asset = self.log.entries[place].record.asset if place in self.log.entries else ""
        if payload:
            frame = frame_in(payload)
            asset, reason = frame.asset, f"to be sent as {frame.source} {frame.epoch}/{frame.seq}"
        mark = Rejected(
            stage=stage,
            reason=reason,
            asset=asset,
            topic=topic,
            partition=place.partition,
            offset=place.offset,
            time_ns=time.time_ns(),
            payload=payload,
        )
        return topic, asset, encode(mark)

    def _deliver(self, records: Sequence[tuple[str, str, bytes]]) -> None:
        """Returns when Kafka has all of them; those with one key in this order. Raises KafkaException."""
        failed: list[KafkaError] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            if error is not None:
                failed.append(error)

        if self._producer is None:
            self._producer = Producer(_settings(self.plant))
        producer, partitions = self._producer, self.plant.kafka.partitions
        for topic, key, value in records:
            home = home_partition(key.encode(), partitions)
            producer.produce(topic, value, key.encode(), home, on_delivery=delivered)
            producer.poll(0)
        missing = producer.flush(DELIVERY_S + 5)
        if failed or missing:
            raise KafkaException(failed[0] if failed else KafkaError(KafkaError._MSG_TIMED_OUT))


class InfluxdbError(RuntimeError):
    """InfluxDB does not store, whatever the lines say."""


def again(rejected: Rejected, plant: Plant) -> Frame | list[str]:
    """What would be sent now: a frame for the stage that rejected it, or lines for InfluxDB. Raises StillBadError."""
    if rejected.stage == "sink":
        return _lines(rejected.payload)
    if rejected.stage == "twin":
        raise StillBadError("the twin takes no late readings; what InfluxDB stores of them does not come from it")
    if rejected.reason.startswith(OUTPUT_TOO_LARGE):
        raise StillBadError(f"{rejected.reason}; the stage has applied it, and would drop it as repeated")
    try:
        frame = (
            frame_again(rejected, plant)
            if rejected.stage == MQTT
            else decode_as(rejected.payload, INPUT_OF.get(rejected.stage, Frame))
        )
    except DecodeError as error:
        raise StillBadError(str(error)) from error
    if frame.kind == "heartbeat":
        raise StillBadError("a heartbeat says something of its own time only")
    if isinstance(frame, ValidatedFrame):
        frame = late(frame)
    source = f"{frame.source.split(RETRIED)[0]}{RETRIED}{TOPIC_OF[type(frame)].name}"
    # A connection of its own that is never lost: what the frame says of the old one is history.
    frame = replace(frame, source=source, connected=True)
    if len(encode(frame)) > PAYLOAD_BYTES_MAX:
        raise StillBadError(f"a frame of {len(encode(frame))} bytes, allowed are {PAYLOAD_BYTES_MAX}")
    return frame


def late(frame: ValidatedFrame) -> ValidatedFrame:
    """The same, late: validation has seen later readings since, so no filter may be moved by these."""
    fine = (frame.flag == Flag.GOOD) | (frame.flag == Flag.NOT_EVALUATED)
    flag = np.where(fine, np.uint8(Flag.SUSPECT), frame.flag).astype("u1")
    return replace(frame, flag=flag, tests=(frame.tests | np.uint32(Test.LATE)).astype("<u4"))


def _lines(payload: bytes) -> list[str]:
    """The lines of what the sink rejected: a line that InfluxDB refused, or a record that could not be lines."""
    if payload.startswith(LINE):
        return [payload.decode()]
    try:
        lines, refused = lines_of(decode(payload))
    except (DecodeError, UnstorableError) as error:
        raise StillBadError(str(error)) from error
    if refused:
        raise StillBadError(refused[0].reason)
    return lines


def _settings(plant: Plant) -> dict[str, object]:
    return {
        **client_settings(plant.kafka),
        "enable.idempotence": True,
        "acks": "all",
        "delivery.timeout.ms": round(DELIVERY_S * 1000),
        "message.max.bytes": MAX_RECORD_BYTES,
    }


async def _written(plant: Plant, lines: list[str]) -> list[str]:
    """Why InfluxDB does not want some of the lines. Raises InfluxdbError where it does not answer."""
    trouble: list[str] = []

    async def refused(sentence: str) -> None:
        trouble.append(sentence)
        raise InfluxdbError(sentence)

    writer = InfluxWriter(plant.influxdb, plant.sink.timeout_s, refused)
    try:
        async with asyncio.timeout(INFLUXDB_S):
            return [unwanted.reason for unwanted in await writer.write(lines)]
    except TimeoutError as error:
        raise InfluxdbError(f"InfluxDB did not store within {INFLUXDB_S:g} s ({plant.influxdb.address})") from error
    finally:
        await writer.close()


def _described(found: Frame | list[str]) -> str:
    if isinstance(found, Frame):
        return f"{DRY} to {TOPIC_OF[type(found)].name}: {len(found)} readings of {found.asset} as {found.source}"
    return f"{DRY} to InfluxDB: {len(found)} points"


def _sent_as(plan: Plan) -> str:
    identity = plan.identity
    return f"sent as {identity.source} {identity.epoch}/{identity.seq}"
