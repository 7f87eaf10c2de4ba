"""Partitions shared among processes: each takes the next one that nobody has begun, until none is left.

One worker's failure is the run's: the others are stopped and its reason is what the run fails with.
"""

import multiprocessing
import queue
import resource
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from replay.archive.manifest import ArchiveError
from replay.fold.chain import Chain
from replay.fold.lane import Folded, Step
from replay.results.digests import Digests
from replay.results.writers import WriteError, Writer
from replay.sources.records import Batches, RawRecord
from replay.sources.topic import SourceError
from schemas.states import StageState

TELL_S = 0.25
LOOK_S = 0.2


class ReplayError(RuntimeError):
    """A run that failed. The message says where and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """Records from `begin` are folded and thrown away, from `start` to before `end` they count; all, or an asset's."""

    begin: int
    start: int
    end: int
    asset: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """A partition, in pieces that know nothing of each other. An asset is in one of them."""

    partition: int
    pieces: Sequence[Piece]

    @property
    def records(self) -> int:
        """How many there are to read."""
        return sum(piece.end - piece.begin for piece in self.pieces)


@dataclass(slots=True)
class Counts:
    """What was done. Times in ms since 1970, of records; None before the first."""

    records: int = 0
    frames: int = 0
    readings: int = 0
    joined: int = 0
    outputs: int = 0
    rejected: int = 0
    alerts: int = 0
    first_ms: int | None = None
    last_ms: int | None = None

    def add(self, other: "Counts") -> None:
        """Add what another did."""
        for name in ("records", "frames", "readings", "joined", "outputs", "rejected", "alerts"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, choose in (("first_ms", min), ("last_ms", max)):
            known = [t for t in (getattr(self, name), getattr(other, name)) if t is not None]
            setattr(self, name, choose(known, default=None))


@dataclass(slots=True)
class Told:
    """What a worker tells: progress since the last time, digests of a partition that is done, its end or failure."""

    worker: int
    counts: Counts = field(default_factory=Counts)
    digests: dict[int, dict[str, dict[str, str]]] = field(default_factory=dict)
    failure: str | None = None
    done: bool = False
    cpu_s: float = 0.0
    memory_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What every worker needs. `source` and `writer` are called in the worker; `check` for what came out of each frame,
    after it was written: it raises WriteError where that fails the run.
    """

    tasks: Sequence[Task]
    steps: Sequence[Step]
    topic: str
    partitions: int
    wide: int
    states: Mapping[int, Mapping[str, Sequence[StageState]]]
    source: Callable[[], Any]
    writer: Callable[[], Writer]
    check: Callable[[Folded], None] = lambda _: None


def run(plan: Plan, workers: int, tell: Callable[[Told], None]) -> None:
    """Do all tasks with so many processes. Raises ReplayError."""
    context = multiprocessing.get_context("fork")  # loops that are compiled and loaded need not be so in every worker
    told: Any = context.Queue()
    following = context.Value("i", 0)
    processes = [
        context.Process(target=_work, args=(plan, n, following, told), name=f"replay-{n}", daemon=True)
        for n in range(max(1, min(workers, len(plan.tasks))))
    ]
    for process in processes:
        process.start()
    try:
        _listen(processes, told, tell)
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
            process.join()


def _listen(processes: Sequence[Any], told: Any, tell: Callable[[Told], None]) -> None:
    done: set[int] = set()
    while len(done) < len(processes):
        try:
            message = told.get(timeout=LOOK_S)
        except queue.Empty:
            for n, process in enumerate(processes):
                if n not in done and process.exitcode is not None and told.empty():
                    raise ReplayError(f"worker {n} ended with exit code {process.exitcode}") from None
            continue
        if message.failure is not None:
            raise ReplayError(message.failure)
        tell(message)
        if message.done:
            done.add(message.worker)


def _work(plan: Plan, number: int, following: Any, told: Any) -> None:
    """A worker process."""
    try:
        source, writer = plan.source(), plan.writer()
        worker = _Worker(plan, number, told, source, writer)
        while True:
            with following.get_lock():
                index = following.value
                following.value += 1
            if index >= len(plan.tasks):
                break
            worker.do(plan.tasks[index])
        source.close()
    except (ArchiveError, SourceError, WriteError) as error:
        told.put(Told(number, failure=str(error)))
    except Exception as error:
        told.put(Told(number, failure=f"worker {number}: {error!r}\n{traceback.format_exc()}"))
    else:
        worker.tell(done=True)


class _Worker:
    def __init__(self, plan: Plan, number: int, told: Any, source: Any, writer: Writer) -> None:
        self._plan, self._number, self._queue = plan, number, told
        self._source, self._writer = source, writer
        self._counts, self._told_s = Counts(), time.monotonic()

    def do(self, task: Task) -> None:
        """Fold one partition."""
        digests = Digests(wide=bool(self._plan.wide))
        self._writer.begin(task.partition)
        for piece in task.pieces:
            self._fold(task.partition, piece, digests)
        self._writer.end()
        self.tell({task.partition: digests.as_dict()})

    def _fold(self, partition: int, piece: Piece, digests: Digests) -> None:
        plan = self._plan
        states = {a: s for a, s in plan.states.get(partition, {}).items() if piece.asset in (None, a)}
        chain = Chain(plan.steps, topic=plan.topic, partitions=plan.partitions, wide=plan.wide, states=states)
        for batch in self._read(partition, piece.begin, piece.start, piece.asset):
            for _ in chain.take(batch):
                pass
        for _ in chain.close():
            pass
        if states and (ahead := chain.ahead()):
            raise SourceError(
                f"the live state of {ahead[0]} ({len(ahead)} assets) has frames of after T0: clocks differ"
            )
        for batch in self._read(partition, piece.start, piece.end, piece.asset):
            if batch:
                self._times(batch)
            for found in chain.take(batch):
                self._keep(found, digests)
            self._counts.records += len(batch)
            if time.monotonic() > self._told_s + TELL_S:
                self.tell()
        for found in chain.close():
            self._keep(found, digests)

    def tell(self, digests: dict[int, dict[str, dict[str, str]]] | None = None, *, done: bool = False) -> None:
        """Tell what was done since the last time."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        self._queue.put(
            Told(
                self._number,
                self._counts,
                digests or {},
                done=done,
                cpu_s=used.ru_utime + used.ru_stime,
                memory_bytes=used.ru_maxrss * 1024,
            )
        )
        self._counts, self._told_s = Counts(), time.monotonic()

    def _read(self, partition: int, start: int, end: int, asset: str | None) -> Batches:
        for batch in self._source.read(partition, start, end):
            yield batch if asset is None else [record for record in batch if record.key == asset.encode()]

    def _keep(self, found: Folded, digests: Digests) -> None:
        self._writer.take(found)
        self._plan.check(found)
        counts = self._counts
        counts.rejected += len(found.rejected)
        counts.alerts += len(found.alerts) + (0 if found.twin is None else len(found.twin.alerts))
        if found.applied:
            counts.frames += len(found.raws)
            counts.readings += sum(raw.n for raw in found.raws)
            counts.joined += 1
            counts.outputs += found.twin is not None
            digests.take(found)

    def _times(self, batch: Sequence[RawRecord]) -> None:
        counts, first, last = self._counts, batch[0].time_ms, batch[-1].time_ms
        counts.first_ms = first if counts.first_ms is None else min(first, counts.first_ms)
        counts.last_ms = last if counts.last_ms is None else max(last, counts.last_ms)
