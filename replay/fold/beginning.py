"""The states at the beginning of a span: nothing, those after a warm-up, or rows of the live changelogs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from replay.fold.snapshots import Snapshot, live_snapshots
from replay.sources.kept import Kept
from replay.sources.span import BEGINNING, Span, SpanError, duration_s
from runtime.config import Kafka
from schemas.states import StageState

NOTHING, LIVE, WARM_UP = "nothing", "live", "warmup="


@dataclass(slots=True, kw_only=True)
class Beginning:
    """Where the states at T0 come from: offsets to fold from, states, and in words."""

    begins: Mapping[int, int]
    states: Mapping[int, Mapping[str, Sequence[StageState]]] = field(default_factory=dict)
    says: str = "nothing"
    notes: tuple[str, ...] = ()


def beginning_of(state: str, kafka: Kafka, span: Span, raw: Kept) -> Beginning:
    """Where a state as it was asked for comes from. Raises SpanError, SnapshotError, SourceError, KafkaException."""
    starts = {p: part.start for p, part in span.parts.items()}
    if state == NOTHING:
        return Beginning(begins=starts)
    if state == LIVE:
        return _live(live_snapshots(kafka, span), span)
    return _warm_up(state, span, raw, starts)


def warm_up_s(state: str) -> float:
    """Seconds of `warmup=10m`. Raises SpanError."""
    return duration_s(state.removeprefix(WARM_UP), "warmup")


def _warm_up(state: str, span: Span, raw: Kept, starts: Mapping[int, int]) -> Beginning:
    seconds = warm_up_s(state)
    if span.from_ms is None:
        raise SpanError(f"--state {state!r} --from {BEGINNING!r}: allowed with a time that something precedes")
    before = raw.first_offsets(span.from_ms - round(seconds * 1000))
    begins = {p: min(start, before.get(p, start)) for p, start in starts.items()}
    return Beginning(begins=begins, says=f"a warm-up of {seconds:g} s whose results were thrown away")


def _live(snapshots: Mapping[int, Snapshot], span: Span) -> Beginning:
    begins = {p: part.start for p, part in span.parts.items()} | {p: s.begin for p, s in snapshots.items()}
    without = sorted(asset for snapshot in snapshots.values() for asset in snapshot.without)
    bare = [p for p, snapshot in snapshots.items() if not snapshot.states]
    notes = []
    if without:
        notes.append(f"no rows before T0 for {', '.join(without[:5])} ({len(without)} assets): from the log's start")
    if bare:
        notes.append(f"no rows before T0 in partitions {', '.join(map(str, bare))}: from the log's start")
    states = {p: s.states for p, s in snapshots.items()}
    count = sum(map(len, states.values()))
    return Beginning(
        begins=begins, states=states, says=f"live: rows of {count} assets, folded on to T0", notes=tuple(notes)
    )
