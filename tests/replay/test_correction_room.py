"""A whole outage in one frame: a correction has all of its late readings, or fails and says so. No Kafka."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from numpy.typing import NDArray

from replay.correct import correction
from replay.correct.correction import look_for_loss, look_for_room, readings_max
from replay.correct.found_late import Late, Search
from replay.correct.late import Arrived, moves_of
from replay.correct.reordered import Moves
from replay.fold.joining import Dictionary, joined
from replay.fold.lane import Folded
from replay.results.writers import WriteError
from replay.run import Job, Request, To
from replay.sources.raw import Raw
from replay.sources.span import Part, Span
from replay.workers import ReplayError
from runtime.config import Plant
from runtime.partitions import home_partition
from schemas.codec import decode_as, encode
from schemas.frames import EstimateFrame, Frame, columns_of
from schemas.records import Rejected
from schemas.topics import MAX_RECORD_BYTES
from tests.kernels.frame_strategies import SECOND, T0
from tests.replay.test_late import LIMITS
from tests.replay.test_workers import PARTITIONS, Memory, done, plan


def frame_at(source_time_ns: NDArray[np.int64], arrival_ns: int, seq: int) -> Frame:
    """A frame of readings of one tag that come together."""
    n = len(source_time_ns)
    columns = {name: np.zeros(n, dtype) for name, dtype in columns_of(Frame).items()}
    columns |= {"source_time_ns": source_time_ns.astype("<i8"), "arrival_time_ns": np.full(n, arrival_ns, "<i8")}
    return Frame(
        asset="R3", source="test", epoch=1, seq=seq, time_ns=arrival_ns, tags=("temperature",), units=("",), **columns
    )


def outage(n: int) -> Late:
    """A device that was off for n readings sends what it measures now, and then what it had kept."""
    end_ns = T0 + SECOND
    kept_ns = T0 + SECOND * np.arange(1, n + 1) // (n + 1)
    sent = [frame_at(np.array([T0]), T0, 0), frame_at(np.array([end_ns]), end_ns, 1), frame_at(kept_ns, end_ns, 2)]
    raws = [Raw("raw", 0, 10 + i, b"", frame) for i, frame in enumerate(sent)]
    readings, of = joined("R3", raws, Dictionary()), [raw.n for raw in raws]
    arrived = Arrived(readings=readings, offset=np.repeat([10, 11, 12], of), row=np.concatenate([*map(np.arange, of)]))
    moves = moves_of(arrived, LIMITS.time_table("R3", readings.tags))
    assert moves is not None
    assert (moves.late, moves.fullest) == (n, (10, n + 1))
    return Late(asset="R3", partition=0, moves=moves, begin=0, end=13, following={})


@pytest.mark.parametrize("to", ["topics", "influxdb"])
def test_an_outage_that_no_frame_can_hold_is_refused(to: To) -> None:
    """Before anything is written, with asset, frame, number and what is allowed; one that is shorter passes."""
    most = readings_max(to)
    look_for_room([outage(most - 1)], to)
    said = rf"R3: in order, {most + 1:,} readings would be in the frame at offset 10 .* {to} are {most:,}"
    with pytest.raises(WriteError, match=said):
        look_for_room([outage(5), outage(most)], to)


def test_what_is_not_refused_fits() -> None:
    """The fold can read a frame of as many readings as are allowed, and topics take the estimates of one."""
    whole = frame_at(np.full(readings_max("influxdb"), T0), T0, 0)
    assert len(decode_as(encode(whole), Frame)) == len(whole)
    n = readings_max("topics")
    columns = {name: np.zeros(n, dtype) for name, dtype in columns_of(EstimateFrame).items()}
    estimates = EstimateFrame(
        asset="R3", source="test", epoch=1, seq=0, time_ns=T0, tags=("t",), units=("",), **columns
    )
    assert len(encode(estimates)) < MAX_RECORD_BYTES


def lost(moves: Moves, offset: int, *, tag: str = "", asset: str = "R3") -> None:
    """What happens where this is rejected."""
    rejected = Rejected(stage="validation", reason="too heavy", asset=asset, tag=tag, partition=0, offset=offset)
    look_for_loss({"R3": moves}, Folded(key=b"R3", raws=(), rejected=[rejected]))


def test_a_rejected_frame_with_late_readings_fails_the_correction() -> None:
    """Named are asset, frame, number and reason; a frame that none come into, or one reading, is rejected as it was."""
    moves = outage(5).moves
    said = (
        "R3: the frame at offset 10 of partition 0 of raw, with 5 late readings, was rejected by validation: too heavy"
    )
    with pytest.raises(WriteError, match=said):
        lost(moves, 10)
    lost(moves, 11)
    lost(moves, 12)
    lost(moves, 10, tag="temperature")
    lost(moves, 10, asset="R4")


def test_a_lost_frame_is_the_error_of_the_run() -> None:
    """A worker looks at what came out of every frame, also where it could not even be read."""
    memory, home = Memory(), home_partition(b"R3", PARTITIONS)
    memory.records[home][10] = memory.records[home][10]._replace(key=b"R3", value=b"no frame")
    asked = replace(plan(memory, wide=0), check=partial(look_for_loss, {"R3": outage(5).moves}))
    with pytest.raises(
        ReplayError, match=f"R3: the frame at offset 10 of partition {home} of raw, with 5 late readings"
    ):
        done(asked, 2)


def test_a_correction_looks_for_room_and_for_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """For room before anything is folded, for loss while it is."""
    jobs: list[Job] = []
    found, span = outage(5), Span(from_ms=None, to_ms=None, parts={0: Part(10, 13, 0)})
    monkeypatch.setattr(Search, "found", lambda *_: [found])
    stubs = {"kept": None, "resolve": span, "_planned": [], "next_version": 1}
    for name, given in stubs.items():
        monkeypatch.setattr(correction, name, lambda *_, given=given: given)
    monkeypatch.setattr(correction, "carry_out", lambda request, job, watch: jobs.append(job))
    request = Request(plant=Plant(), begin="beginning", end="now", run="corrected", state="warmup=10m")
    correction.correct(request)
    rejected = Rejected(stage="twin", reason="failed", asset="R3", partition=0, offset=10)
    with pytest.raises(WriteError, match="rejected by twin: failed"):
        jobs[0].check(Folded(key=b"R3", raws=(), rejected=[rejected]))
    monkeypatch.setattr(correction, "readings_max", lambda to: 5)
    with pytest.raises(WriteError, match="6 readings would be in the frame at offset 10"):
        correction.correct(request)
    assert len(jobs) == 1
