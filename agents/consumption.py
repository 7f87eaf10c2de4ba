"""What is changed in Faust so that it cannot lose records: its consumer, its recovery, its table manager.

Faust pauses partitions only in name: its driver goes on fetching them. Here the driver itself is paused from the moment
of an assignment until `Ownership` has restored the state and sought every partition, so nothing can be read from a
wrong position, and the changelog, which is read elsewhere, is never fetched here at all.
"""

import asyncio
import logging
from collections.abc import Sequence
from typing import Any

from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import TopicPartition
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.drivers import aiokafka as driver

from runtime.metrics import RETRIES

log = logging.getLogger(__name__)

RETRY_S = 0.5


class Listener(driver.ConsumerRebalanceListener):  # type: ignore[misc]
    """Pauses what is assigned before the driver can fetch it."""

    def on_partitions_revoked(self, revoked: Any) -> Any:
        """Called in the consumer's thread, like everything here."""
        self._thread.hold()
        return super().on_partitions_revoked(revoked)

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """The first thing after an assignment, before any other task of the driver runs."""
        self._thread.hold()
        await super().on_partitions_assigned(assigned)


class ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc]
    """Faust's consumer thread; fetches only what `start_reading` names, and not more often than `gather_s` says.

    Every fetch costs about as much as ten frames, so at middling load it pays to let some gather. When nothing has
    come for a while, the next record still comes at once.
    """

    _reading: Sequence[TopicPartition] = ()
    _timer: asyncio.TimerHandle | None = None

    def hold(self) -> None:
        """Fetch nothing of the present assignment."""
        self._reading = ()
        if self._timer is not None:
            self._timer.cancel()
        consumer = self._ensure_consumer()
        consumer.pause(*consumer.assignment())

    async def start_reading(self, tps: Sequence[TopicPartition]) -> None:
        """Fetch these partitions from the positions that were sought."""
        self._reading = tps
        self._resume()

    async def _fetch_records(self, consumer: Any, active_partitions: Any, **options: Any) -> Any:
        records = await super()._fetch_records(consumer, active_partitions, **options)
        gather_s = self.app.ownership.gather_s
        if records and gather_s and self._reading:
            consumer.pause(*self._reading)
            self._timer = self.thread_loop.call_later(gather_s, self._resume)
        return records

    def _resume(self) -> None:
        try:
            self._ensure_consumer().resume(*self._reading)
        except IllegalStateError:
            log.info("partitions were revoked meanwhile")


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, reporting to the application's `ownership` and seeking nothing by itself."""

    RebalanceListener = Listener

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app.ownership.attach(self)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's loop without its four tasks per record, and without its read positions: a task of an earlier
        assignment may write those late, and records below them are dropped.
        """
        try:
            while not (self.should_stop or fetcher.should_stop):
                async for _tp, message in self.getmany(timeout=1.0):
                    await self.callback(message)
        except (*self.consumer_stopped_errors, asyncio.CancelledError):
            if not self.app.should_stop:
                raise

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def start_reading(self, tps: Sequence[TopicPartition]) -> None:
        """To be run in the consumer's thread."""
        await self._thread.start_reading(tps)

    async def perform_seek(self) -> None:
        """Nothing: `Ownership.begin` has sought every partition before it is resumed."""

    def highwater(self, tp: Any) -> int:
        """Not asked: Faust does for every record, and the driver raises where the partition was revoked just now."""
        return 0

    def verify_event_path(self, now: float, tp: Any) -> None:
        """Nothing: our watchdog looks for livelocks, and does more about them than log."""

    async def on_partitions_revoked(self, revoked: Any) -> None:
        """Stop accepting before Faust starts its own clean-up."""
        await self.app.ownership.end()
        await super().on_partitions_revoked(revoked)


class Transport(driver.Transport):  # type: ignore[misc]
    """Faust's transport with our consumer."""

    Consumer = Consumer


class ExactRecovery(Recovery):  # type: ignore[misc]
    """Recovery that leaves the changelog to us (see `agents/changelog.py`) and resumes only what was sought before.

    Faust's own goes on with an empty table when a step takes too long or a row cannot be read, and hangs where the
    last record of a changelog is one it does not see.
    """

    async def _build_highwaters(self, consumer: Any, tps: Any, destination: Any, title: str) -> None:
        destination.clear()  # so Faust finds nothing to recover

    async def _build_offsets(self, consumer: Any, tps: Any, destination: Any, title: str) -> None:
        return

    async def _seek_offsets(self, consumer: Any, tps: Any, offsets: Any, title: str) -> None:
        return

    async def on_recovery_completed(self, generation_id: int = 0) -> None:
        """Restore and seek, let Faust resume, and only then let the driver fetch: Faust drops what comes before."""
        await self._begin(generation_id)
        await super().on_recovery_completed(generation_id)
        await self.app.ownership.read()

    async def _resume_streams(self, generation_id: int = 0) -> None:
        await self._begin(generation_id)
        await super()._resume_streams(generation_id)
        await self.app.ownership.read()

    async def _begin(self, generation_id: int) -> None:
        while self.app.consumer_generation_id == generation_id:
            try:
                await self.app.ownership.begin()
            except (KafkaError, TimeoutError) as error:
                log.warning("cannot find where to read: %r; trying again", error)
                RETRIES.labels(dependency="kafka").inc()
                await asyncio.sleep(RETRY_S)
            else:
                return


class ExactTableManager(TableManager):  # type: ignore[misc]
    """Faust's table manager with our recovery, and without its second of waiting at the start."""

    _recovery: Any

    async def on_start(self) -> None:
        """All tables are declared before the application starts, so there is nothing to wait for."""
        await self._update_channels()
        await self.recovery.start()

    @property
    def recovery(self) -> Any:
        """Our recovery."""
        if self._recovery is None:
            self._recovery = ExactRecovery(self.app, self, beacon=self.beacon, loop=self.loop)
        return self._recovery
