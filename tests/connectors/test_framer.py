"""Framer: whatever the interleaving, every reading leaves exactly once, in order, in frames without holes in seq."""

import struct
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from connectors.framer import FRAME_BYTES_MAX, Framer, Reading
from runtime.config import Framing
from schemas.codec import decode, encode
from schemas.frames import Frame, Gap
from schemas.topics import MAX_RECORD_BYTES

S = 1_000_000_000


def reading(
    asset: str = "R101", tag: str = "temperature", value: float = 1.0, unit: str = "degC", **more: object
) -> Reading:
    """A reading with the fields that a test does not care about filled in."""
    fields = {"source_time_ns": 5, "arrival_time_ns": 7, **more}
    return Reading(asset=asset, tag=tag, unit=unit, value=value, **fields)  # type: ignore[arg-type]


def readings_of(frame: Frame) -> list[Reading]:
    """The readings of a frame, taken apart again."""
    return [
        Reading(
            asset=frame.asset,
            tag=frame.tags[frame.tag[i]],
            unit=frame.units[frame.tag[i]],
            value=float(frame.value[i]),
            source_time_ns=int(frame.source_time_ns[i]),
            server_time_ns=int(frame.server_time_ns[i]),
            arrival_time_ns=int(frame.arrival_time_ns[i]),
            status=int(frame.status[i]),
            mark=int(frame.mark[i]),
            text=frame.texts.get(i),
        )
        for i in range(len(frame))
    ]


def bits(reading: Reading) -> tuple[object, ...]:
    """Everything of a reading, its value by its bits (NaN equals itself, −0.0 differs from 0.0)."""
    return (
        reading.asset, reading.tag, reading.unit, struct.pack("<d", reading.value), reading.source_time_ns,
        reading.server_time_ns, reading.arrival_time_ns, reading.status, reading.mark, reading.text,
    )  # fmt: skip


INT64 = st.integers(-(2**63), 2**63 - 1)
READINGS = st.builds(
    Reading,
    asset=st.sampled_from(["A", "B", "C"]),
    tag=st.sampled_from(["t", "p", "q"]),
    unit=st.sampled_from(["", "degC", "K"]),
    value=st.floats(allow_nan=True),
    source_time_ns=INT64,
    server_time_ns=INT64,
    arrival_time_ns=INT64,
    status=st.integers(0, 2**32 - 1),
    mark=st.integers(0, 3),
    text=st.none() | st.text(st.characters(codec="utf-8"), max_size=5),
)
STEPS = st.lists(
    st.one_of(
        READINGS,
        st.tuples(st.just("pass"), st.integers(-S, 8 * S)),
        st.tuples(st.just("flush"), st.just(0)),
        st.tuples(st.just("gap"), st.sampled_from(["A", "B", "D"])),
        st.tuples(st.just("connected"), st.booleans()),
    ),
    max_size=80,
)


@given(STEPS, st.integers(1, 7), st.sampled_from([0.0, 0.1, 3.0]))
def test_every_reading_once_in_order_and_seq_without_holes(steps: list[Any], most: int, linger_s: float) -> None:
    """Any interleaving of readings, time, flushes, gaps and connection changes keeps order, identity and tokens."""
    framer = Framer("mqtt-1", 42, Framing(linger_s=linger_s, readings_max=most))
    now, frames = 0, []
    sent: list[Reading] = []
    events: list[tuple[str, object]] = []
    got: list[tuple[str, object]] = []
    for step in steps:
        if isinstance(step, Reading):
            framer.add(step, now, token=len(sent))
            sent.append(step)
            events.append((step.asset, bits(step)))
        elif step[0] == "gap":
            gap = Gap(from_ns=len(events), to_ns=1, cause="test")
            framer.gap(step[1], gap, ["t"], now)
            events.append((step[1], gap))
        elif step[0] == "connected":
            framer.connected(step[1])
        else:
            now += step[1]
            frames += framer.due(now, flush=step[0] == "flush")
    frames += framer.due(now, flush=True)

    tokens: list[Any] = []
    for frame, of_frame in frames:
        assert decode(encode(frame)) == frame
        assert 1 <= len(frame) <= most if frame.kind == "readings" else len(frame) == 0
        assert len(set(frame.tags)) == len(frame.tags)
        assert len(of_frame) == len(frame)
        tokens += of_frame
        got += [(frame.asset, bits(r)) for r in readings_of(frame)]
        got += [(frame.asset, frame.gap)] if frame.gap else []
    for asset in "ABCD":
        assert [e for a, e in got if a == asset] == [e for a, e in events if a == asset]
        identities = [f.identity for f, _ in frames if f.asset == asset]
        assert [i.seq for i in identities] == list(range(len(identities)))
        assert {(i.source, i.epoch) for i in identities} <= {("mqtt-1", 42)}
    assert sorted(tokens) == list(range(len(sent)))


def test_a_frame_holds_the_linger_and_no_more() -> None:
    """Readings wait for the linger after the first of them, not longer, and `next_due_ns` says until when."""
    framer = Framer("c", 0, Framing(linger_s=0.1))
    framer.add(reading(), 1000)
    framer.add(reading(), 1000 + S // 20)
    assert framer.next_due_ns() == 1000 + S // 10
    assert framer.due(1000 + S // 10 - 1) == []
    ((frame, _),) = framer.due(1000 + S // 10)
    assert len(frame) == 2
    assert frame.time_ns == 1000 + S // 10


def test_a_full_frame_does_not_wait() -> None:
    """A frame with the largest number of readings is due at once."""
    framer = Framer("c", 0, Framing(readings_max=3))
    for _ in range(4):
        framer.add(reading(), 1000)
    assert framer.next_due_ns() == 0
    assert [len(frame) for frame, _ in framer.due(1000)] == [3]


def test_a_frame_never_outgrows_a_record() -> None:
    """Long texts and tag names close a frame by its bytes, before Kafka would refuse the record."""
    framer = Framer("c", 0, Framing(readings_max=100_000))
    for i in range(6000):
        framer.add(reading(tag=f"{'t' * 195}{i}", text="€" * 1000), 0)
    frames = [frame for frame, _ in framer.due(0, flush=True)]
    assert len(frames) > 1
    assert sum(len(frame) for frame in frames) == 6000
    assert max(len(encode(frame)) for frame in frames) <= FRAME_BYTES_MAX < MAX_RECORD_BYTES


def test_heartbeats_tell_silence_from_nothing_changed() -> None:
    """An asset without readings for 5 s gets a heartbeat every 5 s, an asset with readings gets none."""
    framer = Framer("c", 0, Framing())
    framer.add(reading("quiet"), 0)
    found = []
    for tenth in range(1, 121):
        framer.add(reading("busy"), tenth * S // 10)
        found += [(f.asset, f.time_ns) for f, _ in framer.due(tenth * S // 10) if f.kind == "heartbeat"]
    assert found == [("quiet", 5_100_000_000), ("quiet", 10_100_000_000)]


def test_an_expected_asset_is_missed() -> None:
    """An asset known from an earlier process gets heartbeats before its first reading here, and seq still from 0."""
    framer = Framer("c", 0, Framing())
    framer.expect("R101", 0)
    beats = [*framer.due(4 * S), *framer.due(5 * S), *framer.due(10 * S)]
    framer.add(reading("R101"), 10 * S)
    framer.expect("R101", 10 * S)
    frames = [frame for frame, _ in [*beats, *framer.due(11 * S), *framer.due(12 * S)]]
    assert [(f.kind, f.seq, f.time_ns // S) for f in frames] == [
        ("heartbeat", 0, 5),
        ("heartbeat", 1, 10),
        ("readings", 2, 11),
    ]


def test_a_lost_connection_is_told_at_once() -> None:
    """When the connection goes or comes, every asset learns it at once, by a heartbeat or by its next frame."""
    framer = Framer("c", 0, Framing())
    for asset in "AB":
        framer.add(reading(asset), 0)
    assert [f.connected for f, _ in framer.due(S)] == [True, True]
    framer.connected(False)
    assert framer.next_due_ns() == 0
    assert [(f.asset, f.kind, f.connected) for f, _ in framer.due(2 * S)] == [
        ("A", "heartbeat", False),
        ("B", "heartbeat", False),
    ]
    framer.connected(False)
    assert framer.due(2 * S) == []


def test_a_clock_set_back_does_not_hold_readings() -> None:
    """Readings and heartbeats do not wait for an hour when the clock goes back by one."""
    framer = Framer("c", 0, Framing())
    framer.add(reading(), 4000 * S)
    assert [f.kind for f, _ in framer.due(400 * S)] == ["readings"]
    framer.add(reading("B"), 4000 * S)
    framer.due(4001 * S)
    beats = [(f.asset, f.kind) for f, _ in framer.due(400 * S)]
    assert beats == [("B", "heartbeat"), ("R101", "heartbeat")]


def test_a_gap_comes_after_the_readings_before_it() -> None:
    """A gap frame follows the asset's readings that came before it and precedes the later ones."""
    framer = Framer("c", 0, Framing())
    gap = Gap(from_ns=1, to_ns=2, cause="session lost")
    framer.add(reading(value=1), 0)
    framer.gap("R101", gap, ["temperature"], 0)
    framer.add(reading(value=2), 0)
    frames = [frame for frame, _ in framer.due(0, flush=True)]
    assert [(f.kind, f.seq) for f in frames] == [("readings", 0), ("gap", 1), ("readings", 2)]
    assert frames[1].gap == gap
    assert frames[1].tags == ("temperature",)
