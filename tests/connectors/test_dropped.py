"""Gap frames that stand for dropped frames: exact, in order, however often they are merged."""

import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from connectors.dropped import drop, merged
from connectors.framer import Framer, Reading
from connectors.spool import Spool
from runtime.config import Framing
from schemas.codec import decode, encode
from schemas.frames import Frame, Gap

CAUSE = "spool: full"
kinds = st.lists(st.tuples(st.sampled_from("AB"), st.integers(0, 3), st.sampled_from("tu")), min_size=1, max_size=30)


def frames_of(kinds: list[tuple[str, int, str]]) -> list[Frame]:
    """Frames of (asset, number of readings, tag); without readings a gap of unknown size or a heartbeat, in turn."""
    framer = Framer("c", 1, Framing())
    found: list[Frame] = []
    for n, (asset, number, tag) in enumerate(kinds):
        for i in range(number):
            time_ns = 1000 * n + i
            framer.add(Reading(asset=asset, tag=tag, unit="", value=n, source_time_ns=time_ns, arrival_time_ns=0), 0)
        if not number and n % 2:
            framer.gap(asset, Gap(from_ns=1000 * n, to_ns=1000 * n + 5, cause="before"), (tag,), 0)
        elif not number:
            framer.expect(asset, 0)
        found += [frame for frame, _ in framer.due(10**12 * (number == 0 and n % 2 == 0), flush=True)]
    return found


@given(kinds, st.integers(0, 30))
def test_merging_is_exact_and_may_be_repeated(kinds: list[tuple[str, int, str]], cut: int) -> None:
    """The gap has the first and last time, all tags and the number of readings; merging in two goes gives the same."""
    mine = [frame for frame in frames_of(kinds) if frame.asset == "A"]
    if not mine:
        return
    once = merged(mine, CAUSE).frame
    first, rest = mine[: cut % len(mine) + 1], mine[cut % len(mine) + 1 :]
    assert merged([merged(first, CAUSE).frame, *rest], CAUSE).frame == once
    assert once.identity == mine[-1].identity
    concerned = [frame for frame in mine if len(frame) or frame.gap is not None]
    if not concerned:
        assert once == mine[-1]
        return
    assert once.gap is not None
    times = [int(t) for frame in mine for t in frame.source_time_ns]
    times += [t for frame in mine if frame.gap for t in (frame.gap.from_ns, frame.gap.to_ns)]
    assert (once.gap.from_ns, once.gap.to_ns) == (min(times), max(times))
    assert set(once.tags) == {tag for frame in concerned for tag in frame.tags}
    unknown = any(frame.gap and frame.gap.lost is None for frame in mine)
    assert once.gap.lost == (None if unknown else sum(map(len, mine)))
    assert decode(encode(once)) == once


@settings(max_examples=40, deadline=None)
@given(kinds, st.integers(0, 4000), st.integers(1, 7))
def test_dropping_keeps_order_and_counts(kinds: list[tuple[str, int, str]], wanted: int, step: int) -> None:
    """Rows are dropped from the old end only, in pieces of any size; order stays, and every reading is either there or
    counted."""
    frames = frames_of(kinds)
    with tempfile.TemporaryDirectory() as directory:
        spool = Spool(Path(directory), "c")
        spool.open(0)
        lost = 0
        for begin in range(0, len(frames), step):
            piece = frames[begin : begin + step]
            if piece:
                spool.append([("raw", frame.asset, encode(frame)) for frame in piece], begin)
            lost += drop(spool, 0, None, wanted, CAUSE).readings
        left = [frame for row in spool.read(0, 1000, 1 << 40) if isinstance(frame := decode(row.value), Frame)]
        spool.remove()
    assert sum(map(len, left)) + lost == sum(map(len, frames))
    for asset in "AB":
        seqs = [frame.seq for frame in left if frame.asset == asset]
        assert seqs == sorted(set(seqs))
        sent = [frame.seq for frame in frames if frame.asset == asset]
        assert seqs[-1:] == sent[-1:]
