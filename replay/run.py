"""A replay from what a user asks for to its provenance: spans, states at the beginning, workers, writers."""

import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from confluent_kafka import KafkaException

from kernels.settings import kernel_settings
from kernels.warming import warm_up
from queries.versions import version_of
from replay import workers
from replay.fold.beginning import LIVE, NOTHING, WARM_UP, Beginning, beginning_of, warm_up_s
from replay.fold.chain import READINGS_MAX
from replay.fold.lane import Folded, steps_from
from replay.results import provenance
from replay.results.provenance import Corrected, Provenance
from replay.results.writers import FolderWriter, NoWriter, TopicWriter, WriteError, Writer, create_run_topics
from replay.sources.kept import Kept, kept
from replay.sources.span import Span, resolve
from replay.workers import Counts, Piece, Plan, Task, Told
from runtime.config import Kafka, Plant

To = Literal["topics", "parquet", "influxdb", "none"]
Frames = Literal["as-live", "wide"]
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")


class RequestError(ValueError):
    """Something that cannot be asked for. The message names the option, the value and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked for. `frames` None: wide for files and none, else as live. `workers` None: one per core."""

    plant: Plant
    begin: str
    end: str
    run: str
    assets: tuple[str, ...] = ()
    to: To = "topics"
    out: Path = Path("runs")
    archive: Path | None = None
    workers: int | None = None
    state: str = NOTHING
    frames: Frames | None = None
    readings_max: int = READINGS_MAX

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.run):
            raise RequestError(f"--run {self.run!r}: allowed are up to 64 letters, digits, - and _")
        if self.workers is not None and self.workers < 1:
            raise RequestError(f"--workers {self.workers}: allowed is at least 1")
        if self.state not in (NOTHING, LIVE) and not self.state.startswith(WARM_UP):
            raise RequestError(f"--state {self.state!r}: allowed are {NOTHING}, {WARM_UP}10m (a span), {LIVE}")
        if self.state.startswith(WARM_UP):
            warm_up_s(self.state)

    @property
    def mode(self) -> Frames:
        """How frames are folded."""
        return self.frames or ("as-live" if self.to in ("topics", "influxdb") else "wide")


@dataclass(slots=True)
class Result:
    """What a run did and cost. `memory_bytes`: the most that the workers had together, at worst at one time."""

    provenance: Provenance | None = None
    counts: Counts = field(default_factory=Counts)
    total: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    memory_bytes: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def readings_per_s(self) -> float:
        """Speed."""
        return self.counts.readings / self.wall_s if self.wall_s else 0.0

    @property
    def times_real(self) -> float:
        """Multiple of real time: how long the span took when it happened, over how long it took now."""
        counts = self.counts
        if counts.first_ms is None or counts.last_ms is None or not self.wall_s:
            return 0.0
        done = counts.records / self.total if self.total else 0.0
        return (counts.last_ms - counts.first_ms) / 1000 * min(1.0, done) / self.wall_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What is to be folded. `source` is called in every worker; `check`: see `Plan`; `corrected`: see `Provenance`."""

    raw: Kept
    span: Span
    beginning: Beginning
    tasks: Sequence[Task]
    source: Callable[[], Any]
    check: Callable[[Folded], None] = lambda _: None
    corrected: Mapping[str, Corrected] = field(default_factory=dict)


def replay(request: Request, watch: Callable[[Result], None] = lambda _: None) -> Result:
    """Do it; `watch` is called with what is done so far.

    Raises RequestError, SpanError, SourceError, SnapshotError, WriteError, ReplayError, KafkaException, and what
    create_topics does.
    """
    if version_of(request.run):
        raise RequestError(f"--run {request.run!r}: such names are those of `twin correct`; allowed is any other")
    raw = kept(request.plant.kafka, request.archive)
    span = resolve(raw, request.begin, request.end)
    beginning = beginning_of(request.state, request.plant.kafka, span, raw)
    tasks = [
        Task(partition=p, pieces=(Piece(begin=beginning.begins[p], start=part.start, end=part.end),))
        for p, part in span.parts.items()
        if part.start < part.end
    ]
    job = Job(raw=raw, span=span, beginning=beginning, tasks=tasks, source=lambda: raw.source(request.assets))
    return carry_out(request, job, watch)


def carry_out(request: Request, job: Job, watch: Callable[[Result], None]) -> Result:
    """Fold what is to be folded, write what comes out, and tell of it. Raises what `replay` does."""
    settings = kernel_settings(request.plant)
    warm_up(settings)
    wide = request.readings_max if request.mode == "wide" else 0
    plan = Plan(
        tasks=sorted(job.tasks, key=lambda task: -task.records),  # so that no worker is left with the longest
        steps=steps_from(settings),
        topic=job.raw.topic,
        partitions=request.plant.kafka.partitions,
        wide=wide,
        states=job.beginning.states,
        source=job.source,
        writer=_writer(request),
        check=job.check,
    )
    processes = min(request.workers or os.cpu_count() or 1, len(job.tasks))
    result, digests = _run(plan, processes, job.span.records, watch)
    result.provenance = _provenance(request, job, processes, result, digests)
    result.notes += result.provenance.notes
    if request.to == "parquet":
        (request.out / request.run / provenance.FILE).write_bytes(result.provenance.as_json())
    if request.to != "none":
        _publish(request, result)
    return result


def _publish(request: Request, result: Result) -> None:
    """Tell of the run in the topic of runs. Whose results are files need not be allowed to write there."""
    assert result.provenance is not None
    try:
        provenance.publish(request.plant.kafka, result.provenance)
    except KafkaException as error:
        if request.to == "topics":
            raise
        result.notes.append(
            f"{provenance.runs_topic(request.plant.kafka.configured_prefix)} does not know of this run: {error}"
        )


def _run(
    plan: Plan, processes: int, total: int, watch: Callable[[Result], None]
) -> tuple[Result, dict[str, dict[str, dict[str, str]]]]:
    result, digests = Result(total=total), {}
    begun, own_s = time.monotonic(), time.process_time()
    cpu_s: dict[int, float] = {}
    memory: dict[int, int] = {}

    def tell(told: Told) -> None:
        result.counts.add(told.counts)
        digests.update({str(p): found for p, found in told.digests.items()})
        cpu_s[told.worker], memory[told.worker] = told.cpu_s, told.memory_bytes
        result.wall_s = time.monotonic() - begun
        result.cpu_s = sum(cpu_s.values()) + time.process_time() - own_s
        result.memory_bytes = sum(memory.values())
        watch(result)

    workers.run(plan, processes, tell)
    result.wall_s = time.monotonic() - begun
    return result, digests


def _writer(request: Request) -> Callable[[], Writer]:
    """Makes the writer of a worker; what all workers share is made now. Raises WriteError."""
    if request.to == "topics":
        kafka: Kafka = create_run_topics(request.plant.kafka, request.run)
        return lambda: TopicWriter(kafka)
    if request.to == "parquet":
        folder = request.out / request.run
        if folder.exists() and any(folder.iterdir()):
            raise WriteError(f"--out {request.out} --run {request.run!r}: {folder} is not empty; allowed is a new name")
        folder.mkdir(parents=True, exist_ok=True)
        return lambda: FolderWriter(folder)
    if request.to == "influxdb":
        from replay.results import points  # pandas comes with it, which no other run needs

        return points.writer_of(request.plant, request.run)
    return NoWriter


def _provenance(
    request: Request, job: Job, processes: int, result: Result, digests: dict[str, dict[str, dict[str, str]]]
) -> Provenance:
    raw, span, beginning = job.raw, job.span, job.beginning
    counts, notes = result.counts, list(beginning.notes)
    if span.shortened:
        notes.append(f"partitions {', '.join(map(str, span.shortened))} begin where their log does now")
    return Provenance(
        run=request.run,
        params=provenance.params_digest(request.plant),
        code=provenance.code_version(),
        source=raw.topic,
        from_ms=span.from_ms,
        to_ms=span.to_ms,
        assets=request.assets,
        offsets=provenance.offsets_of(span),
        archived=_archived(raw, span, beginning),
        state=beginning.says,
        frames=request.mode,
        to=request.to,
        workers=processes,
        counts={
            name: getattr(counts, name)
            for name in ("records", "frames", "readings", "joined", "outputs", "rejected", "alerts")
        },
        digests=dict(sorted(digests.items(), key=lambda found: int(found[0]))),
        corrected=dict(job.corrected),
        notes=tuple(notes),
    )


def _archived(raw: Kept, span: Span, beginning: Beginning) -> dict[str, tuple[int, int]]:
    """For `Provenance.archived`."""
    parts = {p: raw.archived(p, beginning.begins[p], part.end) for p, part in sorted(span.parts.items())}
    return {
        str(p): found for p, found in parts.items() if found is not None and span.parts[p].start < span.parts[p].end
    }
