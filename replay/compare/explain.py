"""The first reading that differs between two sides, with the states of both before it, and which side is as folded."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from kernels.stage import Settings
from replay.compare.before import Before, NoState, Side, before
from replay.compare.compare import Comparison, Differing
from replay.compare.difference import Difference, difference, states_differ
from replay.compare.outputs import OUTPUTS, time_of
from replay.sources.topic import LostRecords
from schemas.codec import DecodeError, decode
from schemas.frames import Frame
from schemas.records import TwinState

#: So many first frames of assets are looked at for the one that came first.
CANDIDATES_MAX = 200


@dataclass(slots=True, kw_only=True)
class Explanation:
    """The first difference of all. `states`: where each side's state before it comes from, or why there is none."""

    where: Differing
    what: Difference
    origins: list[str] = field(default_factory=list)
    states: list[str] = field(default_factory=list)
    verdict: str = ""


def explain(
    live: Side, run: Side, comparison: Comparison, settings: Settings, run_settings: Settings | None = None
) -> Explanation | None:
    """The first reading that differs; None where no frame does. Settings are those that each side ran with.

    First: of the asset and frame whose clock is the earliest, and there of the earliest stage. Raises KafkaException,
    LostRecords, NoAnswer, DecodeError.
    """
    sides = (live, run)
    firsts = [line.first for line in comparison.lines if line.first is not None]
    looked_at = [(first, _records(sides, first)) for first in firsts[:CANDIDATES_MAX]]
    if not looked_at:
        return None
    where, values = min(looked_at, key=lambda item: (_clock(item[1][0]), list(OUTPUTS).index(item[0].stage)))
    found = Explanation(where=where, what=difference(*values))
    befores: list[Before] = []
    for name, side, place in zip(("LIVE", "RUN"), sides, (where.live, where.run), strict=True):
        kept = settings if name == "LIVE" or run_settings is None else run_settings
        try:
            state = before(side, where.stage, where.identity, place[0], kept)
        except (NoState, LostRecords) as error:
            found.origins.append(f"{name}: {error}")
        else:
            found.origins.append(f"{name}: folded from {state.origin}")
            befores.append(state)
    if len(befores) == 2:
        found.states = states_differ(befores[0].state, befores[1].state)
    if befores:
        found.verdict = _verdict(befores, values)
    return found


def _records(sides: tuple[Side, Side], where: Differing) -> tuple[bytes, bytes]:
    """The bytes of a frame on both sides."""
    found = []
    for side, (partition, offset) in zip(sides, (where.live, where.run), strict=True):
        topic = OUTPUTS[where.stage].full_name(side.prefix)
        batches = side.reader.read(topic, {partition: (offset, offset + 1)})
        found += [record.value or b"" for batch in batches for record in batch]
    return found[0], found[1]


def _clock(value: bytes) -> int:
    """The arrival clock of a frame, so that frames and states of one compare."""
    try:
        record = decode(value)
    except DecodeError:
        return 0
    assert isinstance(record, Frame | TwinState)
    if isinstance(record, Frame) and len(record):
        return int(record.arrival_time_ns.max())
    return time_of(record)


def _verdict(befores: Sequence[Before], values: tuple[bytes, bytes]) -> str:
    """Whose bytes a fold of each side's input gives."""
    outputs = {state.output for state in befores}
    as_live, as_run = (value in outputs for value in values)
    if as_live and as_run:
        return "each side is what its own input and state give"
    if as_live or as_run:
        return f"a fold gives what {'LIVE' if as_live else 'RUN'} has, and not what {'RUN' if as_live else 'LIVE'} has"
    return "a fold with these settings gives neither: both ran with other settings or another version"
