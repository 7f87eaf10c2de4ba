from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.settings import kernel_settings
from replay.fold.chain import Chain
from replay.fold.joining import Origin
from replay.fold.lane import Folded, Step, steps_from
from replay.sources.records import RawRecord
from runtime.partitions import home_partition
from schemas.codec import decode, encode
from schemas.frames import Frame
from schemas.states import StageState
from tests.faults.fold import Folded as Oracle
from tests.kernels.frame_strategies import (
    EVERYTHING,
    Event,
    Reading,
    beat_frame,
    cuts,
    flattened,
    frame_of,
    frames_of,
    random_events,
    rows,
    sequences,
)

PARTITIONS = 4
STEPS = steps_from(kernel_settings(EVERYTHING))


def record(frame: Frame, offset: int = 0) -> RawRecord:
    """A frame as it stands in raw."""
    key = frame.asset.encode()
    return RawRecord(home_partition(key, PARTITIONS), offset, 0, key, encode(frame))


def fed(records: Iterable[RawRecord], wide: int = 0, steps: Sequence[Step] = STEPS) -> tuple[Chain, list[Folded]]:
    """A chain after these records, and what it gave."""
    chain = Chain(steps, topic="twin.raw", partitions=PARTITIONS, wide=wide)
    return chain, [*chain.take(records), *chain.close()]


def frames(events: Sequence[Event], cut: Iterable[bool], sources: int = 1) -> list[Frame]:
    """Frames of some sources that take turns, each with seqs of its own."""
    found, following = [], dict.fromkeys(range(sources), 0)
    for i, frame in enumerate(frames_of(events, cut)):
        source = (i * 7 // 3) % sources
        found.append(replace(frame, source=f"source-{source}", seq=following[source]))
        following[source] += 1
    return found


def repeated(sent: Sequence[Frame], every: int) -> list[Frame]:
    """The same, some of them sent twice or again later."""
    return [frame for i, f in enumerate(sent) for frame in ([f, f] if i % every == 0 else [f])]


def states_of(chain: Chain, asset: str = "R101") -> list[StageState]:
    """The states of an asset."""
    return chain.lanes[asset].states


def test_as_live_gives_the_bytes_of_a_fold_with_bytes_between_the_stages() -> None:
    """Objects instead of bytes between the stages change no byte of any output and no state."""
    sent = repeated(frames(random_events(600, 11), [i % 5 == 0 for i in range(600)], sources=3), every=6)
    oracles = [Oracle(step.stage, step.params) for step in STEPS]
    expected: list[bytes] = []
    for frame in sent:
        data: bytes | None = encode(frame)
        for oracle in oracles:
            data = None if data is None else oracle.apply(decoded(data))
            expected += [] if data is None else [data]
    chain, found = fed(map(record, sent))
    assert [data for folded in found for data in folded.encoded] == expected
    assert states_of(chain) == [oracle.states["R101"] for oracle in oracles]


def decoded(data: bytes) -> Frame:
    """A frame from its bytes."""
    frame = decode(data)
    assert isinstance(frame, Frame)
    return frame


def per_reading(found: Iterable[Folded]) -> list[tuple[Any, ...]]:
    """Every reading's results, and the frame it came in."""
    told = []
    for folded in found:
        if folded.validated is None or folded.estimates is None:
            continue
        of = Origin(folded.raws, folded.estimates)
        identities = zip((of.sources[s] for s in of.source.tolist()), of.epoch.tolist(), of.seq.tolist(), strict=True)
        told += zip(rows(folded.validated), rows(folded.estimates), identities, strict=True)
    return told


@settings(max_examples=150, deadline=None)
@given(data=st.data(), events=sequences(), sources=st.integers(1, 3), wide=st.sampled_from((2, 5, 4096)))
def test_wide_gives_every_reading_what_as_live_gives(
    data: st.DataObject, events: list[Event], sources: int, wide: int
) -> None:
    """Frames joined, across sources and whatever happens, change no reading's results, alert, window or state."""
    sent = repeated(frames(events, data.draw(cuts(len(events))), sources), every=data.draw(st.integers(3, 9)))
    if data.draw(st.booleans()):
        sent = [frame for i, frame in enumerate(sent) if i % 5 != 4]  # some frames are lost
    live, one_by_one = fed(map(record, sent))
    chain, together = fed(map(record, sent), wide)
    assert per_reading(together) == per_reading(one_by_one)
    twins = [[f.twin for f in found if f.twin is not None] for found in (together, one_by_one)]
    assert list(flattened(twins[0])) == list(flattened(twins[1]))
    for name in ("rejected", "alerts"):
        assert [r for f in together for r in getattr(f, name)] == [r for f in one_by_one for r in getattr(f, name)]
    assert states_of(chain) == states_of(live)
    assert [list(s.applied) for s in states_of(chain)] == [list(s.applied) for s in states_of(live)]


def test_wide_leaves_no_trace_of_a_unit_that_came_and_went() -> None:
    """A unit that only readings inside of a joined frame had is not in the bytes of the state, as live."""
    second_ns = 1_000_000_000
    first_ns = 1_761_474_600 * second_ns
    events: list[Event] = [
        Reading(source_ns=first_ns + i * second_ns, arrival_ns=first_ns + i * second_ns, value=85.0, unit=unit)
        for i, unit in enumerate(("K", "degC", "K"))
    ]
    sent = frames(events, [True, True, True])
    live, _ = fed(map(record, sent))
    chain, _ = fed(map(record, sent), wide=5)
    assert [str(s.columns["unit"][0]) for s in states_of(live)[:1]] == ["K"]
    assert list(map(encode, states_of(chain))) == list(map(encode, states_of(live)))


def test_wide_joins_across_sources() -> None:
    """Once all sources are known, frames without a beat, gap or loss between them become one."""
    sent = frames([Reading(source_ns=1_761_474_600_000_000_000 + i * 10**9) for i in range(400)], [True] * 400, 2)
    _, found = fed(map(record, sent), wide=100)
    assert sum(len(folded.raws) for folded in found) == 400
    assert [len(folded.raws) for folded in found][-4:-1] == [100, 100, 100]
    assert all(folded.twin is not None for folded in found)


def test_a_beat_is_not_passed_over() -> None:
    """A heartbeat between frames has its own outputs, after those of what came before it."""
    sent = frames([Reading(source_ns=1_761_474_600_000_000_000 + i * 10**9) for i in range(20)], [True] * 20)
    beat = replace(beat_frame(type("B", (), {"kind": "heartbeat", "time_ns": sent[9].time_ns})()), source="source-0")
    sent[10:] = [replace(beat, seq=10), *(replace(f, seq=f.seq + 1) for f in sent[10:])]
    _, found = fed(map(record, sent), wide=4096)
    assert [len(folded.raws) for folded in found] == [1, 9, 1, 10]
    assert [f.estimates.kind for f in found if f.estimates is not None] == [
        "readings",
        "readings",
        "heartbeat",
        "readings",
    ]


def test_states_that_do_not_fit_are_seen() -> None:
    """A chain whose twin is ahead of its validation says so: the frames between would have no results."""
    sent = frames([Reading(source_ns=1_761_474_600_000_000_000 + i * 10**9) for i in range(9)], [True] * 9)
    early, late = (states_of(fed(map(record, sent[:n]))[0]) for n in (5, 9))
    for states, ahead in ((late, []), ([early[0], late[1], late[2]], ["R101"]), ([late[0], early[1], early[2]], [])):
        chain = Chain(STEPS, topic="twin.raw", partitions=PARTITIONS, states={"R101": states})
        assert chain.ahead() == ahead


@pytest.mark.parametrize("wide", [0, 4096])
def test_what_cannot_be_taken_is_rejected_with_its_place(wide: int) -> None:
    """Garbage, a wrong key and a wrong partition are rejected with topic, partition and offset; all else goes on."""
    good = record(frame_of([Reading()]))
    wrong = [
        good._replace(offset=1, value=b"garbage"),
        good._replace(offset=2, key=b"other"),
        good._replace(offset=3, partition=(good.partition + 1) % PARTITIONS),
        good._replace(offset=4, value=None, key=None),
    ]
    _, found = fed([*wrong, good], wide)
    rejected = [r for folded in found for r in folded.rejected]
    assert [r.offset for r in rejected] == [1, 2, 3, 4]
    assert {r.topic for r in rejected} == {"twin.raw"}
    assert [r.asset for r in rejected] == ["R101", "other", "R101", ""]
    assert sum(folded.twin is not None for folded in found) == 1


@pytest.mark.parametrize("wide", [0, 4096])
@pytest.mark.parametrize("broken", [0, 1, 2])
def test_a_step_that_raises_costs_its_frame_only(wide: int, broken: int) -> None:
    """The frame is rejected once and counts as applied; the next stage sees a lost frame; the others go through."""
    sent = frames([Reading(source_ns=1_761_474_600_000_000_000 + i * 10**9) for i in range(30)], [True] * 30)

    def step(state: Any, frame: Any, params: Any) -> Any:
        if np.any(frame.source_time_ns == sent[17].source_time_ns[0]):
            raise ZeroDivisionError("a bug")
        return STEPS[broken].stage.step(state, frame, params)

    steps = [*STEPS]
    steps[broken] = Step(replace(STEPS[broken].stage, step=step), STEPS[broken].params)
    records = [record(frame, i) for i, frame in enumerate(sent)]
    _, found = fed(records + records[15:20], wide, steps)
    rejected = [r for folded in found for r in folded.rejected]
    assert [(r.offset, r.stage) for r in rejected] == [(17, STEPS[broken].stage.name)]
    assert "ZeroDivisionError" in rejected[0].reason
    assert sum(len(f.raws) for f in found if f.twin is not None) == 29
    lost = [alert.message for folded in found for alert in folded.alerts]
    assert len(lost) == 2 - broken
