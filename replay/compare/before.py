"""The state of a stage right before a frame, on one side of a comparison: its inputs are folded again.

The changelog's newest row that lies before the frame is the beginning, where there still is one; else nothing.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from kernels.stage import Settings
from kernels.stages import STAGES
from replay.compare.outputs import OUTPUTS
from replay.sources.topic import Reader
from runtime.changelog import unpack
from runtime.config import Kafka
from runtime.partitions import home_partition
from schemas.codec import DecodeError, decode, encode
from schemas.frames import Frame, Identity
from schemas.states import StageState
from schemas.topics import CHANGELOGS, RAW, Topic

INPUTS: dict[str, Topic] = dict(zip(STAGES, (RAW, *OUTPUTS.values()), strict=False))


class NoState(RuntimeError):
    """The state before a frame cannot be made again, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """The state before a frame, where it came from in words, and the output that the frame then gives."""

    state: StageState
    origin: str
    output: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One side: its prefix, all topics that there are, where its raw readings are, and what reads them."""

    prefix: str
    topics: frozenset[str]
    raw: Kafka
    reader: Reader

    def has(self, topic: Topic) -> bool:
        """Whether it has this topic."""
        return topic.full_name(self.prefix) in self.topics


def before(side: Side, stage: str, frame: Identity, partition: int, settings: Settings) -> Before:
    """The state of `stage` before `frame`; `partition`: where the asset is on this side.

    Raises NoState, SourceError, KafkaException.
    """
    topic = INPUTS[stage]
    elsewhere = topic is RAW and not side.has(RAW)
    if elsewhere:  # perhaps of another number of partitions, as after a rescale
        home = home_partition(frame.asset.encode(), side.raw.partitions)
        place = _Place(side.reader, topic.full_name(side.raw.prefix), home)
    else:
        place = _Place(side.reader, topic.full_name(side.prefix), partition)
    row = None if elsewhere else _row(side, stage, partition, frame)
    if row is not None:
        found = _folded(place, stage, frame, row, settings)
        if found is not None:
            return found
    found = _folded(place, stage, frame, (-1, STAGES[stage].stage.initial(frame.asset)), settings)
    if found is None:
        raise NoState(f"{place.topic} no longer has its input, or never had")
    return found


class _Place(NamedTuple):
    """Where inputs are."""

    reader: Reader
    topic: str
    partition: int


def _folded(
    place: _Place, stage: str, frame: Identity, row: tuple[int, StageState], settings: Settings
) -> Before | None:
    """Fold the inputs behind a row up to the frame; None where the frame is not among them."""
    position, state = row
    step, params = STAGES[stage].stage.step, STAGES[stage].params_from(settings)
    origin = "nothing" if position < 0 else f"its changelog's row at input offset {position}"
    folded, first = 0, -1
    for offset, given in _inputs(place, frame.asset, position + 1):
        if given.identity == frame:
            text = f"{origin}, and {folded} frames" + (f" from input offset {first} on" if folded else "")
            try:
                output = step(state, given, params)[1]
            except Exception as error:  # as the agents: no output
                return Before(state=state, origin=f"{text}; the step fails: {error!r}", output=None)
            return Before(state=state, origin=text, output=None if output is None else encode(output))
        if state.has_applied(given.identity):
            continue
        try:
            state = step(state, given, params)[0]
        except Exception:  # as the agents: it counts as applied
            state = state.with_applied(given.identity)
        folded, first = folded + 1, offset if first < 0 else first
    return None


def _inputs(place: _Place, asset: str, start: int) -> Iterator[tuple[int, Any]]:
    """Offsets and frames of an asset, in order."""
    key = asset.encode()
    low, high = place.reader.spans(place.topic)[place.partition]
    span = {place.partition: (max(low, start), high)}
    for batch in place.reader.read(place.topic, span, wanted=lambda found: found == key):
        for record in batch:
            try:
                given = decode(record.value or b"")
            except DecodeError:
                continue
            if isinstance(given, Frame) and given.asset == asset:
                yield record.offset, given


def _row(side: Side, stage: str, partition: int, frame: Identity) -> tuple[int, StageState] | None:
    """The newest row of the asset that has not applied the frame; None where there is none."""
    changelog = next(t for t in CHANGELOGS if t.name == stage)
    if not side.has(changelog):
        return None
    name, key = changelog.full_name(side.prefix), frame.asset.encode()
    found: tuple[int, StageState] | None = None
    spans = {p: span for p, span in side.reader.spans(name).items() if p == partition}
    for batch in side.reader.read(name, spans, wanted=lambda other: other == key, compacted=True):
        for record in batch:
            try:
                position, state = unpack(record.value or b"")
            except DecodeError:
                continue
            if not state.has_applied(frame) and (found is None or position > found[0]):
                found = (position, state)
    return found
