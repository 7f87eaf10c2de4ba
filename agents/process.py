"""The life of an agent process: wait for Kafka, run the Faust application, beat, stop cleanly on a signal."""

import asyncio
import contextlib
import logging
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicPartition

from agents.application import Application, application, source_topic
from agents.outbox import Outbox, Receipts
from agents.ownership import Ownership, Partition, Positions
from agents.reader import Reader
from runtime.config import Kafka, Plant
from runtime.exit_codes import BAD_CONFIGURATION, OK
from runtime.generations import PlanError, at_work
from runtime.health import HEALTH, times
from runtime.kafka import TopicMismatch, TopicsMissing, client_settings, create_topics, topics_of
from runtime.metrics import LAST_COMMIT_TIME, LAST_READING_TIME, LOST_FRAMES, RETRIES, STANDSTILL
from runtime.probes import serve
from runtime.topic_watch import PART
from runtime.watchdog import Watchdog, leave
from schemas.codec import encode
from schemas.records import Alert
from schemas.topics import ALERTS, Topic, app_id

log = logging.getLogger(__name__)

BEAT_S = 1.0
STOP_S = 4.0
REVOKE_S = 10.0
LONGEST_RETRY_S = 10.0
ANSWER_S = 10.0
STANDSTILL_S = 10.0  # and two checkpoints: so long work that waits may not advance before it is said
ASSIGNMENT, PROGRESS = "assignment", "progress"
HOPS = {"validation": 0, "estimation": 1, "twin": 2, "sink": 3}  # places down the chain


class Worker(Protocol):
    """What an agent does with the records of its partitions. Called in the event loop, never twice at a time."""

    async def assigned(self, positions: Mapping[Partition, Positions]) -> frozenset[Partition]:
        """Partitions are ours now: restore whatever belongs to them. Gives those to read from the log's start."""

    async def revoked(self) -> None:
        """They no longer are: write nothing more for them."""

    async def take(self, tp: Partition, offset: int, key: bytes | None, value: bytes | None) -> None:
        """The next record of a partition."""

    async def save(self) -> None:
        """Make everything taken durable and acknowledge it. Called every `agents.checkpoint_s` and at the end."""

    async def close(self) -> None:
        """The process ends cleanly."""

    def progress(self) -> object:
        """A value that changes when work advances that the offsets do not show."""


class Process:
    """One agent process. `make_worker(process)` is called once, in the event loop, before Faust starts."""

    app: Application
    outbox: Outbox
    watchdog: Watchdog
    ownership: Ownership
    reader: Reader

    def __init__(
        self, plant: Plant, name: str, sources: tuple[Topic, ...], make_worker: Callable[["Process"], Worker]
    ) -> None:
        self.plant, self.name, self.sources = plant, name, sources
        self._make_worker = make_worker
        self._ending = asyncio.Event()
        self._nothing_waited_s = time.monotonic()

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; the exit code."""
        HEALTH.ill(ASSIGNMENT, "waiting for Kafka and its topics", logging.INFO)
        HEALTH.describe(PROGRESS, self._describe)
        serve(self.name)  # not earlier: who waits for the metrics waits for the kernels' compiler, too
        return asyncio.run(self._run())

    async def _run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._ending.set)
        try:
            kafka = await _topics_exist(self.plant.kafka, topics_of(self.name), self._ending)
            if kafka is None:
                return OK
        except (TopicMismatch, PlanError) as error:
            log.critical("%s", error)
            return BAD_CONFIGURATION
        self.plant = self.plant.model_copy(update={"kafka": kafka})
        self._build()
        running = [asyncio.create_task(work()) for work in (self._start, self._beat, self._save_regularly)]
        ending = asyncio.create_task(self._ending.wait())
        done, _ = await asyncio.wait([*running, ending], return_when=asyncio.FIRST_COMPLETED)
        for task in done - {ending}:
            leave(f"{self.name}: ended by itself: {task.exception()!r}")
        await self._stop(running)
        return OK

    def _build(self) -> None:
        agents = self.plant.agents
        sources = frozenset(t.full_name(self.plant.kafka.prefix) for t in self.sources)
        written = [t.full_name(self.plant.kafka.prefix) for t in topics_of(self.name) if self.name in t.writers]
        self.outbox = Outbox(self.plant.kafka, written)
        group = app_id(self.name, self.plant.kafka.prefix)
        self.reader = Reader(self.plant.kafka, group, agents.gather_s, HOPS.get(self.name, 0))
        self.ownership = Ownership(sources, self._on_assigned, self._on_revoked, self.reader)
        self.app = application(self.plant, self.name, self.ownership)
        self.watchdog = Watchdog(
            HEALTH,
            stop_s=agents.session_timeout_s * 2 / 3,  # Kafka counts from the last heartbeat, up to a third earlier
            patience_s=agents.watchdog_s,
            progress=self._progress,
            is_stuck=self._is_stuck,
        )
        self.worker = self._make_worker(self)
        self.app.agent(source_topic(self.app, self.plant, self.sources), concurrency=1)(self._agent)
        self.watchdog.start()

    async def _agent(self, stream: Any) -> None:
        async for event in stream.noack().events():
            message = event.message
            if not self.ownership.accepts(message.topic, message.partition, message.offset):
                continue
            try:
                await self.worker.take(
                    Partition(message.topic, message.partition), message.offset, message.key, message.value
                )
            except Exception as error:
                log.exception("%s: failed at %s/%d offset %d", self.name, *message.tp, message.offset)
                leave(f"{self.name}: {error!r}")

    async def _on_assigned(self, positions: Mapping[Partition, Positions]) -> frozenset[Partition]:
        try:
            for tp, position in positions.items():
                if position.expired:
                    await self.tell_deleted(tp, position.expired)
            anew = await self.worker.assigned(positions)
            for tp in anew:
                start, first = positions[tp].log_start, positions[tp].first
                message = f"{self.name}: no state in partition {tp.partition} of the changelog, although {tp.topic} is "
                message += f"worked on up to {first}; reading it again from {start}"
                gone = f": what the {start} expired records before did is lost" if start else ""
                await self._warn("state_lost", tp, message + gone, start)
            return anew
        except Exception as error:
            log.exception("%s: cannot begin", self.name)
            leave(f"{self.name}: cannot begin: {error!r}")

    async def tell_deleted(self, tp: Partition, count: int) -> None:
        """Say that so many records of a partition expired before they were read."""
        LOST_FRAMES.inc(count)
        message = f"{self.name}: {count} records of {tp.topic}/{tp.partition} were deleted unread"
        await self._warn("retention", tp, f"{message}: retention is too short", count)

    async def _warn(self, kind: str, tp: Partition, message: str, value: float) -> None:
        """One log line and one alert."""
        log.critical("%s", message)
        alert = Alert(
            asset="all", kind=kind, severity="critical", time_ns=time.time_ns(), message=message, value=float(value)
        )
        receipts = Receipts()
        topic = ALERTS.full_name(self.plant.kafka.prefix)
        await self.outbox.send(receipts, topic, b"all", encode(alert), tp.partition)
        await receipts.wait()

    async def _on_revoked(self) -> None:
        try:
            async with asyncio.timeout(REVOKE_S):
                await self.worker.revoked()
        except TimeoutError:
            leave(f"{self.name}: rows still on their way {REVOKE_S:.0f} s after their partitions were revoked")

    async def _start(self) -> None:
        await self.app.start()
        await self.app.wait_until_stopped()

    async def _beat(self) -> None:
        while True:
            HEALTH.beat()
            self._report()
            if self.ownership.assigned:
                await self.ownership.attend()
            await asyncio.sleep(BEAT_S)

    async def _save_regularly(self) -> None:
        while True:
            await asyncio.sleep(self.plant.agents.checkpoint_s)
            await self.worker.save()

    async def _stop(self, running: list["asyncio.Task[None]"]) -> None:
        log.info("%s: stopping", self.name)
        deadline_s = asyncio.get_running_loop().time() + STOP_S
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                self.ownership.pause()
                await self.worker.save()
                await self.worker.close()
        self.watchdog.stop()
        for task in running[1:]:
            task.cancel()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(deadline_s):
                await self.app.stop()
        self.reader.close()
        self.outbox.close(max(0.0, deadline_s - asyncio.get_running_loop().time()))

    def _report(self) -> None:
        """Tell everybody whether there is progress, where some is due."""
        ours, checkpoint_s = self.ownership, self.plant.agents.checkpoint_s
        if not ours.assigned:
            HEALTH.ill(ASSIGNMENT, "no partitions are assigned, or their state is being restored", logging.INFO)
            return
        HEALTH.well(ASSIGNMENT, "complete")
        now_s = time.monotonic()
        if not ours.lag() + ours.unacknowledged:
            self._nothing_waited_s = now_s
        standstill_s = min(self.watchdog.standstill_s, now_s - self._nothing_waited_s)
        STANDSTILL.set(standstill_s)
        if standstill_s > STANDSTILL_S + 2 * checkpoint_s:
            HEALTH.ill(PROGRESS, f"nothing has advanced since {_clock(standstill_s)}, while records wait")
        else:
            HEALTH.well(PROGRESS, "advancing")

    def _describe(self) -> dict[str, object]:
        """What a report of this process's health says beside well or ill. Runs in any thread."""
        ours = getattr(self, "ownership", None)
        if ours is None:
            return {}
        expected = ours.expected
        return {
            "assigned": [f"{tp.topic}/{tp.partition}" for tp in sorted(expected)],
            "lag_frames": ours.lag(),
            "unacknowledged_frames": ours.unacknowledged,
            "standstill_s": round(STANDSTILL._value.get(), 3),
            **times("last_commit", LAST_COMMIT_TIME),
            **times("last_reading", LAST_READING_TIME),
        }

    def _progress(self) -> object:
        """Changes while the process advances: offsets accepted and committed, assignments, rows recovered."""
        ours = self.ownership
        return sum(ours.expected.values()), sum(dict(ours.committed).values()), ours.term, self.worker.progress()

    def _is_stuck(self) -> str | None:
        """Asked by the watchdog's thread when nothing has changed for long: is there anything to do?"""
        ends = _log_ends(self.plant.kafka, app_id(self.name, self.plant.kafka.prefix), self.ownership.expected)
        if ends is None:
            return None  # Kafka does not answer; whoever waits for it is not stuck
        if not self.ownership.assigned:
            return "no partitions were assigned, or a recovery does not end"
        committed = dict(self.ownership.committed)
        lag = sum(max(0, end - committed.get(tp, end)) for tp, end in ends.items())
        return f"{lag} records wait" if lag else None


def _clock(ago_s: float) -> str:
    return time.strftime("%H:%M:%SZ", time.gmtime(time.time() - ago_s))


def _log_ends(kafka: Kafka, group: str, tps: Mapping[Partition, int]) -> dict[Partition, int] | None:
    """Where the partitions end, asked past everything of Faust's; None where Kafka does not answer."""
    client = Consumer({**client_settings(kafka), "group.id": group})
    try:
        client.list_topics(timeout=5)
        return {tp: client.get_watermark_offsets(TopicPartition(*tp), timeout=5)[1] for tp in tps}
    except KafkaException:
        return None
    finally:
        client.close()


async def _topics_exist(kafka: Kafka, topics: tuple[Topic, ...], ending: asyncio.Event) -> Kafka | None:
    """Wait for Kafka and for our topics, as long as it takes, and give the configuration for those that are at work.
    None: the process was told to end meanwhile.

    Where this user may create topics, as everybody may on an open Kafka, what is missing is made.
    """
    delay_s = 0.2
    while not ending.is_set():
        try:
            found = await asyncio.to_thread(at_work, kafka, ANSWER_S)
            await asyncio.to_thread(create_topics, found, topics, timeout_s=ANSWER_S)
        except (KafkaException, TopicsMissing, OSError) as error:  # OSError: a password file that cannot be read
            said = error.args[-1] if isinstance(error, KafkaException) else error
            HEALTH.ill(PART, f"{kafka.address}: {said.str() if isinstance(said, KafkaError) else said}")
            RETRIES.labels(dependency="kafka").inc()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(ending.wait(), delay_s)
            delay_s = min(2 * delay_s, LONGEST_RETRY_S)
        else:
            HEALTH.well(PART)
            return found
    return None
