"""Bytes that nobody meant: whatever they are, a reason is given or every rule holds, and no filter is spoilt."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import fastavro
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from schemas.codec import HEADER_BYTES, MARKER, encode, versions
from schemas.frames import EstimateFrame, Frame, ValidatedFrame, columns_of
from schemas.records import TwinState
from store.line_protocol import UnstorableError
from store.twin_lines import state_line
from tests.fuzz.targets import check_frame, check_payload, check_record, is_one_line, records, seeds

CRASHES = sorted((Path(__file__).parent / "crashes").glob("*/*"))
TARGETS = {"payload": check_payload, "frame": check_frame}
ODD_NUMBERS = st.sampled_from(
    [0.0, -0.0, float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324, 2.0**63, 1e100, 85.3]
)
ODD_TIMES = st.sampled_from([0, 1, -1, 2**63 - 1, -(2**63), -(2**63) + 1, 9_223_372_036_854_774_808, 10**18])


@pytest.mark.parametrize("path", CRASHES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_broke_something_breaks_nothing_now(path: Path) -> None:
    """Every input that a fuzzer ever found keeps the rules."""
    TARGETS[path.parent.name](path.read_bytes())


@pytest.mark.parametrize("target", TARGETS)
def test_good_inputs_are_accepted(target: str) -> None:
    """What the fuzzers start from is used: the rules are not kept by refusing everything."""
    assert all(TARGETS[target](data) for data in seeds(target))


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from(["payload", "frame"]))
def test_damaged_inputs_keep_the_rules(data: st.DataObject, target: str) -> None:
    """A good input with bytes changed, cut, doubled or put in is refused with a reason or keeps every rule."""
    good = bytearray(data.draw(st.sampled_from(list(seeds(target)))))
    for _ in range(data.draw(st.integers(1, 6))):
        at = data.draw(st.integers(0, len(good)))
        kind = data.draw(st.sampled_from(("flip", "cut", "put", "double", "end")))
        if kind == "flip" and at < len(good):
            good[at] ^= 1 << data.draw(st.integers(0, 7))
        elif kind == "cut":
            del good[at : at + data.draw(st.integers(1, 16))]
        elif kind == "put":
            good[at:at] = data.draw(st.binary(min_size=1, max_size=10))
        elif kind == "double":
            good[at:at] = good[at : at + 32]
        elif kind == "end":
            del good[at:]
    TARGETS[target](bytes(good))


@st.composite
def odd_frames(draw: st.DrawFn) -> Frame:
    """Frames of any type that keep the rules of frames, and otherwise hold anything."""
    frame_type = draw(st.sampled_from((Frame, ValidatedFrame, EstimateFrame)))
    n = draw(st.integers(1, 5))
    tags = draw(st.lists(st.text(max_size=8), min_size=1, max_size=3))
    columns: dict[str, Any] = {}
    for name, dtype in columns_of(frame_type).items():
        if name == "tag":
            items: Any = st.integers(0, len(tags) - 1)
        elif dtype.kind == "f":
            items = ODD_NUMBERS | st.floats()
        elif dtype == np.dtype("<i8"):
            items = ODD_TIMES
        else:
            items = st.integers(0, np.iinfo(dtype).max)
        columns[name] = np.array(draw(st.lists(items, min_size=n, max_size=n)), dtype)
    return frame_type(
        asset="R101", source="fuzz", epoch=draw(st.integers(0, 2**63 - 1)), seq=draw(st.integers(0, 2**63 - 1)),
        time_ns=draw(ODD_TIMES), tags=tuple(tags), units=draw(st.tuples(*[st.text(max_size=4)] * len(tags))),
        texts=draw(st.dictionaries(st.integers(0, n - 1), st.text(max_size=5), max_size=2)), **columns,
    )  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(odd_frames())
def test_any_frame_that_keeps_its_rules_can_be_used(frame: Frame) -> None:
    """Whatever numbers, times, flags and names a frame holds: no stage raises, and no filter holds NaN or infinity."""
    assert check_record(encode(frame))


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_columns_of_any_lengths_are_refused_or_agree(data: st.DataObject) -> None:
    """A record whose columns are as long as they please is accepted only where they all fit."""
    frame = data.draw(st.sampled_from([r for r in records() if isinstance(r, Frame)]))
    version = next(v for v in versions() if v.name == frame.schema and v.newest)
    plain: dict[str, Any] = fastavro.schemaless_reader(io.BytesIO(encode(frame)[HEADER_BYTES:]), version.parsed, None)
    for name in data.draw(st.lists(st.sampled_from([n for n in plain if isinstance(plain[n], bytes)]), max_size=3)):
        plain[name] = data.draw(st.binary(max_size=40) | st.just(plain[name][:-8]))
    plain["texts"] = [{"row": data.draw(st.integers(-1, 5)), "text": "x"}]
    body = io.BytesIO()
    fastavro.schemaless_writer(body, version.parsed, plain)
    check_record(MARKER + version.fingerprint + body.getvalue())


@pytest.mark.parametrize("name", ["a\nb", "a b=1,c", "a\\", ""])
def test_names_in_a_state_make_no_second_line(name: str) -> None:
    """A model state whose name is no field key is escaped or refused; it never writes a point of its own."""
    state = next(r for r in records() if isinstance(r, TwinState))
    for changed in (replace(state, model_states={name: 1.0}), replace(state, prediction={name: 1.0})):
        check_record(encode(changed))
        try:
            line = state_line(changed)
        except UnstorableError:
            continue
        assert "b=1,c" not in line


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='ab"\\\n', max_size=12))
@example('"\n"')
def test_lines_are_told_from_quoted_newlines(text: str) -> None:
    """The check of lines itself: a newline inside quotes is none, one outside is."""
    quoted = '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    assert is_one_line(f"m,t=a f={quoted} 1")
    assert not is_one_line(f"m,t=a f={quoted}\n1")
