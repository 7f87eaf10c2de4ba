"""One asset on its way through the three stages: a frame, or several joined, from raw to the twin's state.

What is done with a frame is what `agents/fold.py` does, without Kafka: an identity that was applied leaves no trace, a
step that raises counts as applied and has no output, and the next stage sees that as a lost frame. May not know: where
frames come from and where results go.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from kernels.around import lost_frames, too_large
from kernels.stage import Settings, Stage
from kernels.stages import STAGES
from replay.fold.joining import Dictionary, joined
from replay.sources.raw import Raw
from schemas.codec import Record, encode
from schemas.frames import EstimateFrame, Frame, ValidatedFrame
from schemas.records import Alert, Rejected, TwinState
from schemas.states import StageState

VALIDATION, ESTIMATION, TWIN = range(3)
#: As long as the twin keeps the name of a source.
SOURCE_CHARS = 64


class Step(NamedTuple):
    """A stage and its settings."""

    stage: Stage[Any, Any, Any]
    params: Any


def steps_from(settings: Settings) -> tuple[Step, ...]:
    """The stages in the order of the flow, with these settings."""
    return tuple(Step(entry.stage, entry.params_from(settings)) for entry in STAGES.values())


class Place(NamedTuple):
    """Where a record stood."""

    topic: str
    partition: int
    offset: int


@dataclass(slots=True, kw_only=True)
class Folded:
    """What came out of the stages for the frames of `raws` (one, or several joined), None where nothing did.

    `key` is that of the records. `encoded` has the bytes of what each stage gave, where they were asked for. `applied`:
    whether any stage took it.
    """

    key: bytes
    raws: Sequence[Raw]
    validated: ValidatedFrame | None = None
    estimates: EstimateFrame | None = None
    twin: TwinState | None = None
    encoded: list[bytes] = field(default_factory=list)
    rejected: list[Rejected] = field(default_factory=list)
    alerts: list[Alert] = field(default_factory=list)
    applied: bool = False


def within(applied: Mapping[tuple[str, int], int], other: Mapping[tuple[str, int], int]) -> bool:
    """Whether all frames that are applied here, by source and epoch, are so there."""
    return all(seq <= other.get(place, -1) for place, seq in applied.items())


class Lane:
    """The states of one asset after each stage, and frames that wait to be joined."""

    def __init__(self, asset: str, steps: Sequence[Step], states: Sequence[StageState] | None = None) -> None:
        self.asset, self._key, self._steps = asset, asset.encode(), steps
        self.states = list(states or (step.stage.initial(asset) for step in steps))
        self.waiting: list[Raw] = []
        self.readings = 0
        self._dictionary = Dictionary()
        self._next: dict[tuple[str, int], int] = {}
        self._connected: frozenset[str] = frozenset()
        self._settle()

    def wait(self, raw: Raw) -> bool:
        """Put a frame to those that are joined, if it may be; else False, and nothing has happened.

        Only readings of a known and connected source whose frames follow each other: everything else has a meaning of
        its own that would be lost.
        """
        place = (raw.source, raw.epoch)
        if self._next.get(place) != raw.seq or not raw.plain or not raw.n or raw.source not in self._connected:
            return False
        self.waiting.append(raw)
        self.readings += raw.n
        self._next[place] = raw.seq + 1
        return True

    def close(self) -> list[Folded]:
        """Fold what waits: as one frame, or frame by frame where that would not say the same."""
        raws, self.waiting, self.readings = self.waiting, [], 0
        if len(raws) > 1:
            together = self._together(raws)
            if together is not None:
                return [together]
        return [self.single(raw) for raw in raws]

    def single(self, raw: Raw, *, encoded: bool = False) -> Folded:
        """Fold one frame; `encoded`: and give the bytes that the agents give."""
        found = Folded(key=self._key, raws=(raw,))
        frame: Any = raw.frame
        for number in range(len(self._steps)):
            frame = self._stepped(number, frame, raw, found, encoded)
            if frame is None:
                break
            _keep(found, number, frame)
        self._settle()
        return found

    def ahead(self) -> bool:
        """Whether a later stage has applied a frame that the stage before it has not."""
        pairs = zip(self.states[1:], self.states, strict=False)
        return any(not within(later.applied, earlier.applied) for later, earlier in pairs)

    def _stepped(self, number: int, frame: Frame, raw: Raw, found: Folded, encoded: bool) -> Record | None:
        step, state = self._steps[number], self.states[number]
        identity = frame.identity
        if state.has_applied(identity):
            return None
        found.applied = True
        lost = state.lost_before(identity)
        out, time_ns = None, 0
        rejects: Sequence[Rejected] = ()
        try:
            after, out, rejects = step.stage.step(state, frame, step.params)
            reason = too_large(after, grew=len(after.tags) > len(state.tags))
            if encoded and out is not None and reason is None:
                found.encoded.append(encode(out))
        except Exception as error:  # a bug of the stage: the frame is dealt with, as in the agents
            reason, time_ns = f"step failed: {error!r}", frame.time_ns
        if reason is not None:
            after, out, rejects = state.with_applied(identity), None, ()
            payload = raw.value if number == VALIDATION else encode(frame)
            found.rejected.append(
                rejection(
                    raw,
                    stage=step.stage.name,
                    asset=frame.asset,
                    reason=reason,
                    payload=payload,
                    time_ns=time_ns,
                )
            )
        if lost:
            found.alerts.append(lost_frames(step.stage.name, frame, lost))
        found.rejected += [placed(rejected, raw) for rejected in rejects]
        self.states[number] = after
        return out

    def _together(self, raws: Sequence[Raw]) -> Folded | None:
        """Fold frames as one; None, and nothing has happened, where a reading would leave or a step fails.

        Then it must be told of which frame.
        """
        before = {(raw.source, raw.epoch): raw.seq for raw in raws[:-1]}
        frame: Any = joined(self.asset, raws, self._dictionary)
        identity = frame.identity
        found, states = Folded(key=self._key, raws=raws, applied=True), []
        try:
            for number, (stage, params) in enumerate(self._steps):
                state = self.states[number]
                known = replace(state, applied={**state.applied, **before})
                if known.has_applied(identity):
                    return None
                after, frame, rejects = stage.step(known, frame, params)
                if rejects or (number == VALIDATION and frame.repeated):
                    return None
                if too_large(after, grew=len(after.tags) > len(state.tags)):
                    return None
                states.append(after)
                _keep(found, number, frame)
        except Exception:  # it fails again, frame by frame, and is rejected there
            return None
        self.states = states
        return found

    def _settle(self) -> None:
        """Of which sources the next frame may be joined: none, unless all stages have applied the same."""
        first, *others = (state.applied for state in self.states)
        if any(other != first for other in others):
            self._next = {}
            return
        self._next = {place: seq + 1 for place, seq in first.items()}
        columns: Mapping[str, Any] = self.states[TWIN].columns
        if "sources" in columns:
            pairs = zip(columns["sources"].tolist(), columns["connected"].tolist(), strict=False)
            self._connected = frozenset(source for source, up in pairs if up and len(source) < SOURCE_CHARS)


def _keep(found: Folded, number: int, out: Any) -> None:
    if number == VALIDATION:
        found.validated = out
    elif number == ESTIMATION:
        found.estimates = out
    else:
        found.twin = out


def rejection(place: Raw | Place, *, stage: str, asset: str, reason: str, payload: bytes, time_ns: int = 0) -> Rejected:
    """The record of what a stage could not take, with its place in raw."""
    return placed(Rejected(stage=stage, reason=reason, asset=asset, time_ns=time_ns, payload=payload), place)


def placed(rejected: Rejected, place: Raw | Place) -> Rejected:
    """The same with its place in raw, as small as Kafka wants it."""
    return replace(rejected, topic=place.topic, partition=place.partition, offset=place.offset).fitting()
