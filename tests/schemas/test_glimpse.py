from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schemas.codec import decode_as, encode
from schemas.frames import Frame, columns_of
from schemas.glimpse import Glimpse, Glimpser, columns_from
from tests.kernels.frame_strategies import Reading, cuts, frame_of, frames_of, sequences


def agrees(glimpse: Glimpse, frame: Frame) -> None:
    """What was seen at a glance is what was decoded."""
    assert (glimpse.source, glimpse.epoch, glimpse.seq, glimpse.n, glimpse.time_ns) == (
        frame.source, frame.epoch, frame.seq, len(frame), frame.time_ns,
    )  # fmt: skip
    assert (glimpse.names.tags, glimpse.names.units) == (frame.tags, frame.units)
    assert frame.kind == "readings" and frame.connected and not frame.texts and frame.gap is None
    for name, column in columns_from([glimpse]).items():
        assert column.dtype == columns_of(Frame)[name]
        assert column.tobytes() == getattr(frame, name).tobytes()


@settings(max_examples=100, deadline=None)
@given(data=st.data(), events=sequences())
def test_a_glance_sees_what_decoding_sees(data: st.DataObject, events: list[object]) -> None:
    """Whatever is recognised has the content that decoding gives, and usual frames are recognised."""
    glimpser = Glimpser()
    for frame in frames_of(events, data.draw(cuts(len(events)))):  # type: ignore[arg-type]
        made = replace(frame, connected=data.draw(st.booleans()), source=data.draw(st.sampled_from(("a", "bé"))))
        glimpse = glimpser.read(encode(made))
        if glimpse is not None:
            agrees(glimpse, made)
        glimpser.learn(made)
        again = glimpser.read(encode(made))
        usual = made.kind == "readings" and made.connected and not made.texts and made.time_ns > 5 * 10**17
        assert (again is not None) == (usual and made.time_ns < 2**62)


@pytest.fixture(scope="module")
def value() -> bytes:
    """The bytes of a small frame that the glimpser knows."""
    return encode(usual(3))


def usual(n: int, seq: int = 300) -> Frame:
    """A frame of n readings of two tags."""
    return frame_of([Reading(tag=("temperature", "pressure")[i % 2], value=i) for i in range(n)], seq)


def test_no_byte_may_be_wrong(value: bytes) -> None:
    """With any byte changed, cut or added, what is recognised is what decoding gives, and never what it refuses."""
    glimpser = Glimpser()
    glimpser.learn(usual(3))
    assert glimpser.read(value) is not None
    damaged = [value[:i] + bytes([value[i] ^ 1 << bit]) + value[i + 1 :] for i in range(len(value)) for bit in range(8)]
    damaged += [value[:i] for i in range(len(value))] + [value + b"\0", value + value]
    for data in damaged:
        glimpse = glimpser.read(data)
        if glimpse is not None:
            agrees(glimpse, decode_as(data, Frame))


def test_columns_of_frames_of_any_sizes() -> None:
    """Frames of different sizes are put together in order."""
    sent = [usual(n, i) for i, n in enumerate((50, 50, 1, 2, 2, 300, 50))]
    glimpser = Glimpser()
    found: list[Glimpse] = []
    for frame in sent:
        glimpser.learn(frame)
        glimpse = glimpser.read(encode(frame))
        assert glimpse is not None
        found.append(glimpse)
    for name, column in columns_from(found).items():
        assert column.tobytes() == joined(sent, name).tobytes()


def joined(sent: Sequence[Frame], name: str) -> "np.ndarray[tuple[int], np.dtype[np.generic]]":
    """A column of all frames."""
    found: np.ndarray[tuple[int], np.dtype[np.generic]] = np.concatenate([getattr(f, name) for f in sent])
    return found


def test_more_sources_than_are_remembered() -> None:
    """Recognising goes on however many sources and dictionaries an asset has."""
    glimpser = Glimpser()
    for i in range(100):
        made = replace(usual(1), source=f"source-{i}", tags=(f"tag-{i}",), units=("K",))
        glimpser.learn(made)
        glimpse = glimpser.read(encode(made))
        assert glimpse is not None
        agrees(glimpse, made)
