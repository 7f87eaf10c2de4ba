"""What is changed in Faust so that it cannot lose records: its consumer, its recovery, its table manager.

Faust pauses partitions only in name: its driver goes on fetching them. Here the driver itself is paused from the moment
of an assignment, and stays so: it keeps up the membership of the group and commits. Records come from
`agents/reader.py`, from the offsets that `Ownership` names when the state is restored, so nothing can be read from a
wrong position.
"""

import asyncio
import logging
from typing import Any

from aiokafka.errors import KafkaError
from faust.tables.manager import TableManager
from faust.tables.recovery import Recovery
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from faust.types.tuples import ConsumerMessage

from runtime.metrics import RETRIES

log = logging.getLogger(__name__)

RETRY_S = 0.5


class Listener(driver.ConsumerRebalanceListener):  # type: ignore[misc]
    """Pauses what is assigned before the driver can fetch it."""

    async def on_partitions_assigned(self, assigned: Any) -> None:
        """The first thing after an assignment, before any other task of the driver runs. Nothing is resumed later."""
        consumer = self._thread._ensure_consumer()
        consumer.pause(*consumer.assignment())
        await super().on_partitions_assigned(assigned)


class Consumer(driver.Consumer):  # type: ignore[misc]
    """Faust's consumer, reporting to the application's `ownership`, reading with its reader and seeking nothing."""

    RebalanceListener = Listener

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.app.ownership.attach(self)

    async def _drain_messages(self, fetcher: Any) -> None:
        """Faust's loop over the reader's records, and without its read positions: a task of an earlier assignment may
        write those late, and records below them are dropped.
        """
        reader = self.app.ownership.reader
        try:
            while not (self.should_stop or fetcher.should_stop):
                term, records = await reader.batch()
                for record in records:
                    if term != reader.term:
                        break  # revoked, or sought again
                    await self.callback(self._to_message(TP(record.topic(), record.partition()), record))
        except asyncio.CancelledError:
            if not self.app.should_stop:
                raise

    def _to_message(self, tp: TP, record: Any) -> ConsumerMessage:
        """From the form of confluent-kafka, not aiokafka."""
        kind, time_ms = record.timestamp()
        return ConsumerMessage(
            tp.topic,
            tp.partition,
            record.offset(),
            time_ms / 1000,
            kind,
            None,
            record.key(),
            record.value(),
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )

    async def perform_seek(self) -> None:
        """Nothing: the reader is told where to begin."""

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
    """Recovery that leaves the changelog to us (see `runtime/changelog.py`), and after which `Ownership` reads.

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
        """Restore, let Faust resume, and only then read: Faust drops what comes before."""
        await self._begin(generation_id)
        await super().on_recovery_completed(generation_id)
        self.app.ownership.read()

    async def _resume_streams(self, generation_id: int = 0) -> None:
        await self._begin(generation_id)
        await super()._resume_streams(generation_id)
        self.app.ownership.read()

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
