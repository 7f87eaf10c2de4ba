"""What every stage keeps to, whatever it computes."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.stage import fold
from kernels.stages import STAGES
from schemas.codec import decode, encode
from schemas.frames import Frame
from tests.kernels.frame_strategies import (
    EVERYTHING,
    Event,
    Reading,
    cuts,
    flattened,
    frames_of,
    inputs_of,
    random_events,
    run,
    sequences,
    settings_of,
)

pytestmark = pytest.mark.parametrize("name", STAGES)


def whole(events: list[Event]) -> list[Frame]:
    """All events in as few frames as can be."""
    return frames_of(events, [False] * len(events))


def stage_and_params(name: str) -> tuple[Any, Any]:
    """A stage, and its params with every test on."""
    entry = STAGES[name]
    return entry.stage, entry.params_from(settings_of(EVERYTHING))


@settings(max_examples=60, deadline=None)
@given(data=st.data(), events=sequences())
def test_framing_does_not_matter(name: str, data: st.DataObject, events: list[Event]) -> None:
    """However the same readings are cut into frames, every output and the state come out the same to the bit."""
    state, outputs = run(name, frames_of(events, data.draw(cuts(len(events)))), EVERYTHING)
    other, others = run(name, whole(events), EVERYTHING)
    assert list(flattened(outputs)) == list(flattened(others))
    assert replace(state, applied={}) == replace(other, applied={})


@settings(max_examples=30, deadline=None)
@given(data=st.data(), events=sequences())
def test_stop_and_restart_change_nothing(name: str, data: st.DataObject, events: list[Event]) -> None:
    """A state that goes through its bytes after every frame gives the same outputs, and ends the same."""
    inputs = inputs_of(name, frames_of(events, data.draw(cuts(len(events)))), EVERYTHING)
    stage, params = stage_and_params(name)
    state = restarted = stage.initial("R101")
    for frame in inputs:
        state, out, _ = stage.step(state, frame, params)
        restarted, out_again, _ = stage.step(decode(encode(restarted)), decode(encode(frame)), params)
        assert encode(out) == encode(out_again)
        assert state == restarted


def test_a_frame_that_comes_again_changes_nothing(name: str) -> None:
    """A frame already applied, or one older than it, gives the same state, no output and no reject."""
    frames = inputs_of(name, frames_of(random_events(200, 1), [i % 7 == 0 for i in range(200)]), EVERYTHING)
    stage, params = stage_and_params(name)
    state = stage.initial("R101")
    for i, frame in enumerate(frames):
        state, out, _ = stage.step(state, frame, params)
        assert out.identity == frame.identity
        for old in (frame, frames[i // 2]):
            again, nothing, rejects = stage.step(state, old, params)
            assert again is state
            assert nothing is None
            assert rejects == ()


def test_inputs_are_not_changed(name: str) -> None:
    """A step changes neither the state nor the frame it was given, even where their arrays could be written."""
    frames = inputs_of(name, frames_of(random_events(300, 2), [i % 5 == 0 for i in range(300)]), EVERYTHING)
    stage, params = stage_and_params(name)
    state = stage.initial("R101")
    for frame in frames:
        before = encode(state), encode(frame)
        after, _, _ = stage.step(state, frame, params)
        assert (encode(state), encode(frame)) == before
        state = after


def test_the_order_of_the_tags_is_irrelevant(name: str) -> None:
    """The order in which a frame lists its tags, and tags it lists without having a reading, change no output."""
    events = random_events(400, 3)
    frames = frames_of(events, [i % 20 == 0 for i in range(400)])
    _, outputs = run(name, frames, EVERYTHING)
    _, others = run(name, [reordered(frame) for frame in frames], EVERYTHING)
    assert list(flattened(outputs)) == list(flattened(others))


def reordered(frame: Frame) -> Frame:
    """The same readings, with the dictionary backwards and a tag in it that no reading has."""
    if frame.kind != "readings":
        return frame
    n = len(frame.tags)
    return replace(
        frame,
        tags=(*reversed(frame.tags), "never_read"),
        units=(*reversed(frame.units), "bar"),
        tag=(n - 1 - frame.tag).astype("<u2"),
    )


def test_a_tag_may_vanish(name: str) -> None:
    """When a tag is heard no more, every later frame still has its output, and the tag keeps its row."""
    events = random_events(300, 4)
    later = [e for e in random_events(300, 5) if not (isinstance(e, Reading) and e.tag == "pressure")]
    moved = [replace(e, tag="level") if isinstance(e, Reading) else e for e in later]
    frames = frames_of([*events, *moved], [i % 10 == 0 for i in range(len(events) + len(moved))])
    state, outputs = run(name, frames, EVERYTHING)
    assert all(out is not None for out in outputs)
    assert "pressure" in state.tags
    assert [out.identity for out in outputs] == [frame.identity for frame in frames]


def test_an_old_row_may_lack_any_column(name: str) -> None:
    """A state written before a column existed is taken, and the column is there afterwards."""
    events = random_events(200, 6)
    first, second = events[:100], events[100:]
    state, _ = run(name, whole(first), EVERYTHING)
    frames = inputs_of(name, whole(events), EVERYTHING)[len(whole(first)) :]
    stage, params = stage_and_params(name)
    assert second
    for missing in state.columns:
        old = replace(state, columns={n: c for n, c in state.columns.items() if n != missing})
        *_, (after, _, _) = fold(stage, old, frames, params)
        assert missing in after.columns


def test_outputs_survive_their_bytes(name: str) -> None:
    """Every output can be written and read back, equal to the bit."""
    _, outputs = run(name, frames_of(random_events(300, 7), [i % 3 == 0 for i in range(300)]), EVERYTHING)
    for out in outputs:
        assert encode(decode(encode(out))) == encode(out)
