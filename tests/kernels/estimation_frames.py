"""Validated frames for the tests of estimation and twin: readings as tuples, frames cut anywhere."""

from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from itertools import pairwise
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kernels.stage import Settings
from runtime.config import Plant
from schemas.frames import EstimateFrame, Frame, Gap, ValidatedFrame, columns_of, empty_columns
from schemas.quality import Flag

START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000

AnyFrame = TypeVar("AnyFrame", bound=Frame)


class R(NamedTuple):
    """One validated reading; `t_s` is its source time after START_NS, it arrives `late_s` later."""

    t_s: float
    value: float
    tag: str = "temperature"
    unit: str = "degC"
    flag: int = Flag.GOOD
    tests: int = 0
    mark: int = 0
    late_s: float = 0.01


def settings(
    *,
    tags: Mapping[str, Mapping[str, Any]] | None = None,
    assets: Mapping[str, Mapping[str, Any]] | None = None,
    twin: Mapping[str, Any] | None = None,
) -> Settings:
    """Settings as a plant file with these tables gives them."""
    plant = Plant.model_validate({"tags": tags or {}, "assets": assets or {}, "twin": twin or {}})
    return Settings(
        tag=lambda asset, tag: plant.tag(asset, tag).model_dump(),
        asset=lambda asset: plant.asset(asset).model_dump(),
        twin=plant.twin.model_dump(),
    )


def frame(readings: Sequence[R], *, seq: int = 0, source: str = "mqtt-1", **more: Any) -> ValidatedFrame:
    """A frame of these readings."""
    tags = tuple(dict.fromkeys(r.tag for r in readings))
    times = np.array([START_NS + round(r.t_s * 1e9) for r in readings], "<i8")
    values: dict[str, Any] = {
        "asset": "R101",
        "source": source,
        "epoch": 1,
        "seq": seq,
        "time_ns": START_NS,
        "tags": tags,
        "units": tuple(next(r.unit for r in readings if r.tag == tag) for tag in tags),
        "tag": np.array([tags.index(r.tag) for r in readings], "<u2"),
        "source_time_ns": times,
        "server_time_ns": np.zeros(len(readings), "<i8"),
        "arrival_time_ns": times + np.array([round(r.late_s * 1e9) for r in readings], "<i8"),
        "value": np.array([r.value for r in readings], "<f8"),
        "status": np.zeros(len(readings), "<u4"),
        "mark": np.array([r.mark for r in readings], "u1"),
        "flag": np.array([r.flag for r in readings], "u1"),
        "tests": np.array([r.tests for r in readings], "<u4"),
        "ordinal": np.zeros(len(readings), "u1"),
    }
    return ValidatedFrame(**{**values, **more})


def heartbeat(t_s: float, *, seq: int, connected: bool = True, gap: Gap | None = None) -> ValidatedFrame:
    """A heartbeat, or a gap frame, without readings."""
    return ValidatedFrame(
        asset="R101",
        source="mqtt-1",
        epoch=1,
        seq=seq,
        kind="heartbeat" if gap is None else "gap",
        connected=connected,
        gap=gap,
        time_ns=START_NS + round(t_s * 1e9),
        **empty_columns(ValidatedFrame),
    )


def cut(whole: AnyFrame, at: Sequence[int]) -> list[AnyFrame]:
    """The same readings in several frames, numbered from 0. `at`: indices where a new frame begins."""
    edges = sorted({0, len(whole), *(i for i in at if 0 < i < len(whole))})
    return [
        replace(
            whole,
            seq=seq,
            time_ns=whole.time_ns + seq,
            **{name: getattr(whole, name)[a:b] for name in columns_of(type(whole))},
        )
        for seq, (a, b) in enumerate(pairwise(edges))
    ]


def columns_joined(frames: Sequence[Frame]) -> dict[str, bytes]:
    """Bytes of every column over all frames, to be compared to the bit."""
    return {name: b"".join(getattr(f, name).tobytes() for f in frames) for name in columns_of(type(frames[0]))}


def estimates(readings: Sequence[R], *, seq: int = 0, std: float = 0.5, **more: Any) -> EstimateFrame:
    """Readings whose estimate is their value, as if they had been through estimation."""
    made = frame(readings, seq=seq, **more)
    n = len(readings)
    values = {f.name: getattr(made, f.name) for f in fields(made)}
    return EstimateFrame(
        **values,
        estimate=made.value.copy(),
        rate=np.zeros(n),
        std=np.full(n, std),
        innovation=np.zeros(n),
        nis=np.full(n, 1.0),
    )
