"""A correction: what came late in a span of raw, folded again as if it had come in order (decision 0014).

Every asset with late readings is folded again from the state before the earliest of them to the end of the span. What
comes out is a run with a name of its own, which says its version: what was written live stays as it is.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from glob import escape

from confluent_kafka import Consumer

from kernels.settings import kernel_settings
from kernels.validation_params import ValidationParams
from queries.api import Queries, QueryError
from queries.versions import corrected_run, version_of
from replay.correct.found_late import Late, Search
from replay.correct.reordered import Moves, ReorderedSource
from replay.fold.beginning import Beginning, warm_up_s
from replay.fold.lane import Folded
from replay.fold.snapshots import LiveRows
from replay.results.provenance import Corrected, runs_topic
from replay.results.writers import WriteError, run_kafka
from replay.run import Job, Request, Result, To, carry_out
from replay.sources.kept import kept
from replay.sources.span import ANSWER_S, Part, Span, reader_settings, resolve
from replay.sources.topic import Reader
from replay.workers import Piece, Task
from schemas.frames import EstimateFrame, Frame, columns_of
from schemas.states import StageState
from schemas.topics import MAX_RECORD_BYTES
from schemas.weight import WEIGHT_MAX_BYTES


@dataclass(frozen=True, slots=True, kw_only=True)
class Planned:
    """An asset to fold again: what is late, from which offset on, with which states (None: none are known)."""

    late: Late
    begin: int
    states: Sequence[StageState] | None

    @property
    def piece(self) -> Piece:
        """What a worker folds."""
        return Piece(begin=self.begin, start=self.late.moves.start, end=self.late.end, asset=self.late.asset)

    def told(self, warm_up_s: float) -> Corrected:
        """What the provenance says."""
        moves = self.late.moves
        state = f"a warm-up of {warm_up_s:g} s" if self.begin < moves.start else "nothing"
        if self.states is not None:
            state = "live"
        return Corrected(
            late=moves.late, corrected=moves.corrected, from_ns=moves.from_ns, offset=moves.start, state=state
        )


def correct(request: Request, watch: Callable[[Result], None] = lambda _: None) -> Result | None:
    """Do it; None where no reading of the span is late, and nothing is written.

    Of the request, `state` says how long the warm-up is for assets without live rows that are old enough, and `run`
    counts for nothing: a correction has the next version as its name. Raises what `replay` does, WriteError also
    where a frame cannot hold the late readings that belong in it.
    """
    warm_up, kafka = warm_up_s(request.state), request.plant.kafka
    raw = kept(kafka, request.archive)
    span = resolve(raw, request.begin, request.end)
    params = ValidationParams(kernel_settings(request.plant))
    search = Search(raw=raw, partitions=kafka.partitions, params=params, warm_up_ms=round(warm_up * 1000))
    late = list(search.found(span, request.assets))
    if not late:
        return None
    look_for_room(late, request.to)
    planned = _planned(request, span, late)
    moves = {found.asset: found.moves for found in late}
    job = Job(
        raw=raw,
        span=_changed(span, late),
        beginning=_beginning(planned, warm_up),
        tasks=_tasks(planned),
        source=lambda: ReorderedSource(raw.source(tuple(map(escape, moves))), moves),
        check=partial(look_for_loss, moves),
        corrected={one.late.asset: one.told(warm_up) for one in planned},
    )
    return carry_out(replace(request, run=corrected_run(next_version(request)), frames="as-live"), job, watch)


def readings_max(to: To) -> int:
    """How many readings a frame may have. The fold reads it as a record, and topics take its estimates as one."""
    frame_type, bytes_max = (EstimateFrame, MAX_RECORD_BYTES) if to == "topics" else (Frame, WEIGHT_MAX_BYTES)
    each = sum(dtype.itemsize for dtype in columns_of(frame_type).values())
    return bytes_max * 15 // 16 // each  # the rest is for names, and for some texts


def look_for_room(late: Sequence[Late], to: To) -> None:
    """Raises WriteError where late readings go into a frame that cannot hold so many: those of a long outage of a whole
    asset all belong behind its last frame before.
    """
    allowed = readings_max(to)
    for found in late:
        offset, n = found.moves.fullest
        if n > allowed:
            raise WriteError(
                f"{found.asset}: in order, {n:,} readings would be in the frame at offset {offset} of partition "
                f"{found.partition} of raw, allowed with --to-where {to} are {allowed:,}; --assets takes the others"
            )


def look_for_loss(moves: Mapping[str, Moves], found: Folded) -> None:
    """Raises WriteError where a frame is rejected that late readings were put into. Without them the correction would
    lack what it is for, and its version would hide what is stored live.
    """
    for rejected in found.rejected:
        n = moves[rejected.asset].coming(rejected.offset) if rejected.asset in moves else 0
        if n and not rejected.tag:  # one with a tag is of a single reading, which validation cannot take
            raise WriteError(
                f"{rejected.asset}: the frame at offset {rejected.offset} of partition {rejected.partition} of raw, "
                f"with {n:,} late readings, was rejected by {rejected.stage}: {rejected.reason}"
            )


def next_version(request: Request) -> int:
    """One more than the newest version of any correction that is known where this one goes. Raises WriteError."""
    known = set(_runs_in_kafka(request))
    if request.to == "influxdb":
        try:
            with Queries(request.plant.influxdb) as queries:
                known.update(queries.runs())
        except (QueryError, OSError) as error:  # OSError: the token's file
            raise WriteError(f"--to-where influxdb: {error}") from error
    if request.to == "parquet" and request.out.is_dir():
        known.update(folder.name for folder in request.out.iterdir())
    return 1 + max(map(version_of, known), default=0)


def _runs_in_kafka(request: Request) -> set[str]:
    """Names of runs that have a record or topics."""
    kafka = request.plant.kafka
    with closing(Consumer(reader_settings(kafka))) as consumer:
        topics = consumer.list_topics(timeout=ANSWER_S).topics
    start = run_kafka(kafka, "").prefix
    found = {topic.removeprefix(start).split(".")[0] for topic in topics if topic.startswith(start)}
    name = runs_topic(kafka.configured_prefix)
    if name in topics:
        with closing(Reader(kafka)) as reader:
            batches = reader.read(name, reader.spans(name), compacted=True)
            found |= {(record.key or b"").decode("utf-8", "replace") for batch in batches for record in batch}
    return found


def _planned(request: Request, span: Span, late: Sequence[Late]) -> list[Planned]:
    assets: dict[int, list[str]] = {}
    for found in late:
        assets.setdefault(found.partition, []).append(found.asset)
    planned = []
    with closing(LiveRows(request.plant.kafka, assets)) as rows:
        for found in late:
            live = rows.before(found.partition, found.asset, found.moves.start, found.following)
            if live is not None and live[0] >= span.parts[found.partition].low:
                planned.append(Planned(late=found, begin=live[0], states=live[1]))
            else:
                planned.append(Planned(late=found, begin=found.begin, states=None))
    return planned


def _tasks(planned: Sequence[Planned]) -> list[Task]:
    pieces: dict[int, list[Piece]] = {}
    for one in planned:
        pieces.setdefault(one.late.partition, []).append(one.piece)
    return [Task(partition=partition, pieces=found) for partition, found in pieces.items()]


def _changed(span: Span, late: Sequence[Late]) -> Span:
    """Of partitions with late readings, what results are written of."""
    parts: dict[int, Part] = {}
    for found in late:
        low, known = span.parts[found.partition].low, parts.get(found.partition)
        start = found.moves.start if known is None else min(known.start, found.moves.start)
        parts[found.partition] = Part(start, found.end, low)
    return replace(span, parts=parts)


def _beginning(planned: Sequence[Planned], warm_up_s: float) -> Beginning:
    begins: dict[int, int] = {}
    states: dict[int, dict[str, Sequence[StageState]]] = {}
    for one in planned:
        partition = one.late.partition
        begins[partition] = min(one.begin, begins.get(partition, one.begin))
        if one.states is not None:
            states.setdefault(partition, {})[one.late.asset] = one.states
    said = [one.told(warm_up_s).state for one in planned]
    says = "; ".join(f"{state} ({said.count(state)} assets)" for state in sorted(set(said)))
    return Beginning(begins=begins, states=states, says=says)
