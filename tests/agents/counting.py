"""A stage whose output shows every mistake of its driver: it counts frames and chains a digest over all of them."""

from dataclasses import replace
from typing import Any
from zlib import crc32

import numpy as np

from kernels.stage import Stage
from schemas.codec import encode
from schemas.frames import Column, Frame, ValidatedFrame, columns_of
from schemas.records import Rejected
from schemas.states import StageState

MASK = 2**62 - 1


def initial(asset: str) -> StageState:
    """No frames counted."""
    return StageState(stage="validation", asset=asset, columns={"chain": np.zeros(2, np.int64)})


def step(
    state: StageState, frame: Frame, params: Any
) -> tuple[StageState, ValidatedFrame | None, tuple[Rejected, ...]]:
    """Count and chain. `params` "fails at 13" raises at that sequence number, as a bug would."""
    if state.has_applied(frame.identity):
        return state, None, ()
    if params == "fails at 13" and frame.seq == 13:
        raise ArithmeticError("thirteen")
    count, digest = (int(x) for x in state.columns["chain"])
    count, digest = count + 1, (digest * 1_000_003 + crc32(encode(frame))) & MASK
    chain = np.array([count, digest], np.int64)
    new = replace(state, columns={"chain": chain}).with_applied(frame.identity)
    return new, _counted(frame, count, digest), ()


def _counted(frame: Frame, count: int, digest: int) -> ValidatedFrame:
    plain = {name: getattr(frame, name) for name in ("asset", "source", "epoch", "seq", "tags", "units", "texts")}
    columns: dict[str, Column] = {
        name: getattr(frame, name, np.zeros(len(frame), dtype)) for name, dtype in columns_of(ValidatedFrame).items()
    }
    return ValidatedFrame(**plain, **columns, time_ns=digest, repeated=count)


COUNTING: Stage[Frame, ValidatedFrame, Any] = Stage("validation", initial, step)


def frame(asset: str, seq: int, *, source: str = "test", epoch: int = 1, readings: int = 4) -> Frame:
    """A frame whose content follows from its identity."""
    time_ns = 1_700_000_000_000_000_000 + seq * 100_000_000
    values = np.sin(np.arange(readings) + seq) * 10 + 80 + crc32(asset.encode()) % 7
    times = np.full(readings, time_ns, np.int64) - np.arange(readings)[::-1] * 1_000_000
    return Frame(
        asset=asset,
        source=source,
        epoch=epoch,
        seq=seq,
        time_ns=time_ns,
        tags=("temperature",),
        units=("degC",),
        tag=np.zeros(readings, np.uint16),
        source_time_ns=times,
        server_time_ns=np.zeros(readings, np.int64),
        arrival_time_ns=times + 5_000_000,
        value=values,
        status=np.zeros(readings, np.uint32),
        mark=np.zeros(readings, np.uint8),
    )
