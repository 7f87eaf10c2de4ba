"""Where stages meet Kafka and Faust: all that `agents/` offers to those who write a stage or the sink.

`run_stage` folds one of the kernels' stages over a topic, effectively once (see docs/decisions/0003). `run_tableless`
hands batches of records to a function and acknowledges them when it returned.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from agents.application import state_table
from agents.batches import Batches, Handle, Received, alert, heartbeat, reject
from agents.fold import FailPoint, Fold, Outputs, nothing
from agents.lookback import holds_frame
from agents.ownership import Partition, Positions
from agents.process import Process
from kernels.stage import Stage
from runtime.changelog import UnreadableRow, recover, unpack
from runtime.config import Plant
from runtime.exit_codes import FAILED
from runtime.watchdog import leave
from schemas.codec import DecodeError
from schemas.topics import CHANGELOGS, Topic, app_id

__all__ = ["Handle", "Received", "alert", "heartbeat", "reject", "run_stage", "run_tableless"]

log = logging.getLogger(__name__)


def run_stage(
    plant: Plant,
    stage: Stage[Any, Any, Any],
    *,
    source: Topic,
    outputs: Outputs,
    params: Any,
    fail_point: FailPoint = nothing,
) -> int:
    """Fold `stage` over `source` until SIGTERM or SIGINT; return the exit code.

    `outputs(out)` says which records, with which keys, go to which topics for one output of the stage. Repeated frames
    leave no trace; what cannot be decoded, and a frame whose step raises, goes to the topic of rejected records.
    """

    def worker(process: Process) -> StageWorker:
        return StageWorker(process, stage=stage, source=source, outputs=outputs, params=params, fail_point=fail_point)

    return Process(plant, stage.name, (source,), worker).run()


def run_tableless(
    plant: Plant,
    name: str,
    sources: Sequence[Topic],
    handle: Handle,
    *,
    on_stop: Callable[[], Any] | None = None,
    fail_point: FailPoint = nothing,
) -> int:
    """Hand records of `sources` to `handle` in batches of up to `plant.sink.batch_frames`, until
    SIGTERM or SIGINT; return the exit code.

    Per partition, records come in the order of their offsets, each at least once. A batch is acknowledged after
    `handle` returned, never before; `handle` is called in the process's event loop and never twice at a time. It
    retries by itself, for ever, whatever it depends on, and calls `heartbeat()` while it does. An exception from it
    ends the process without acknowledging (exit code RESTART_ME). `on_stop` is awaited in the same loop at the end.
    `fail_point(name)` is for tests: it is told "handled" when `handle` has returned, and "ack" right before the
    acknowledgement.
    """

    def worker(process: Process) -> Batches:
        return Batches(process, handle, on_stop, fail_point)

    return Process(plant, name, tuple(sources), worker).run()


class StageWorker:
    """Recovers the states of an assignment and lets a `Fold` go on from there."""

    def __init__(
        self,
        process: Process,
        *,
        stage: Stage[Any, Any, Any],
        source: Topic,
        outputs: Outputs,
        params: Any,
        fail_point: FailPoint,
    ) -> None:
        self._process, self._plant, self._stage, self._source = process, process.plant, stage, source
        self._changelog = next(t for t in CHANGELOGS if t.name == stage.name)
        self._rows_read = 0
        self._store = state_table(process.app, process.plant, self._changelog).data
        self._fold = Fold(
            prefix=process.plant.kafka.prefix,
            partitions=process.plant.kafka.partitions,
            stage=stage,
            params=params,
            source=source,
            outputs=outputs,
            changelog=self._changelog,
            checkpoint_frames=process.plant.agents.checkpoint_frames,
            outbox=process.outbox,
            table=self._store.data,
            commit=process.ownership.commit,
            refuse_zombie=process.watchdog.refuse_zombie,
            fail_point=fail_point,
        )
        self.take, self.save, self.revoked = self._fold.take, self._fold.save, self._fold.end

    def progress(self) -> object:
        """Rows recovered."""
        return self._rows_read

    async def close(self) -> None:
        """Nothing of its own."""

    async def assigned(self, positions: Mapping[Partition, Positions]) -> frozenset[Partition]:
        """Read the changelog of the partitions, check it against them, and begin the fold.

        Gives the partitions of which frames have been worked on and that have no state in the changelog: it is lost.
        Folding all that their log still has builds it again, the same as before where nothing has expired; outputs that
        come again are dropped by the next stage.
        """
        begun = time.monotonic()
        kafka, topic = self._plant.kafka, self._changelog.full_name(self._plant.kafka.prefix)
        source = self._source.full_name(kafka.prefix)
        group = app_id(self._stage.name, kafka.prefix)
        try:
            partitions = [tp.partition for tp in positions]
            found = await asyncio.to_thread(recover, kafka, topic, partitions, self._beat, group)
            rows = {key.decode(): unpack(row) for key, row in found.rows.items()}
        except (UnreadableRow, DecodeError, UnicodeDecodeError) as error:
            leave(f"changelog {topic} cannot be read: {error}. A state is lost; see docs/decisions/0003", FAILED)
        home = {key.decode(): Partition(source, partition) for key, partition in found.partition_of.items()}
        read = dict.fromkeys(positions, 0)
        for asset, row in rows.items():
            read[home[asset]] = max(read[home[asset]], row.position + 1)
            end = positions[home[asset]].log_end
            if row.position >= end:
                leave(
                    f"changelog {topic}: {asset} has applied offset {row.position} of {source}, which ends at {end}. "
                    "The topic was made anew: use a new kafka.prefix, or delete the changelog as well",
                    FAILED,
                )
        for tp, p in positions.items():
            # Kafka forgets the offsets of a group that is away for long; the rows still know them.
            if p.committed is None and 0 < read[tp] < p.log_start:
                await self._process.tell_deleted(tp, p.log_start - read[tp])
        self._store.data.clear()
        self._store.data.update(found.rows)
        self._fold.begin(rows, {key.decode(): home[key.decode()] for key in found.overtaken})
        took = time.monotonic() - begun
        log.info("%s: %d rows in %d records of %s, %.1f s", self._stage.name, len(rows), found.read, topic, took)
        kept = set(found.partition_of.values())
        bare = [tp for tp, p in positions.items() if tp.partition not in kept and p.first > p.log_start]
        return frozenset([tp for tp in bare if await self._has_had_state(tp, positions[tp].first, group)])

    async def _has_had_state(self, tp: Partition, first: int, group: str) -> bool:
        """Whether there is a frame before offset `first`: every one that was taken has left a row, garbage has not."""

        def is_frame(key: bytes | None, value: bytes | None) -> bool:
            try:
                self._fold.frame(tp, key, value)
            except DecodeError:
                return False
            return True

        kafka = self._plant.kafka
        return await asyncio.to_thread(holds_frame, kafka, group, tp, first, is_frame=is_frame, beat=self._beat)

    def _beat(self, rows_read: int) -> None:
        self._rows_read = rows_read
