"""Frames for the tests of kernels: made from plain readings, cut as one likes, and random sequences of them."""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

from kernels.stage import Settings
from kernels.stages import STAGES
from runtime.config import Plant
from schemas.frames import Frame, Gap, ValidatedFrame, columns_of, empty_columns
from schemas.quality import Mark
from schemas.records import TwinState
from schemas.states import StageState

T0 = 1_761_474_600_000_000_000  # 2025-10-26T10:30:00Z
SECOND = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One reading; `arrival_ns` None: it arrives when it was taken."""

    tag: str = "temperature"
    unit: str = "degC"
    source_ns: int = T0
    arrival_ns: int | None = None
    value: float = 85.0
    status: int = 0
    mark: int = 0
    text: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A frame without readings."""

    kind: str
    time_ns: int


Event = Reading | Beat


def frame_of(readings: Sequence[Reading], seq: int = 0, names: Sequence[tuple[str, str]] | None = None) -> Frame:
    """A frame of readings. `names`: the order of its dictionary of (tag, unit), else that of the readings."""
    names = list(dict.fromkeys((r.tag, r.unit) for r in readings)) if names is None else list(names)
    arrivals = [r.source_ns if r.arrival_ns is None else r.arrival_ns for r in readings]
    return Frame(
        asset="R101",
        source="test",
        epoch=1,
        seq=seq,
        time_ns=max(arrivals, default=T0),
        tags=tuple(tag for tag, _ in names),
        units=tuple(unit for _, unit in names),
        tag=np.array([names.index((r.tag, r.unit)) for r in readings], "<u2"),
        source_time_ns=np.array([r.source_ns for r in readings], "<i8"),
        server_time_ns=np.zeros(len(readings), "<i8"),
        arrival_time_ns=np.array(arrivals, "<i8"),
        value=np.array([r.value for r in readings], "<f8"),
        status=np.array([r.status for r in readings], "<u4"),
        mark=np.array([r.mark | (Mark.TEXT if r.text is not None else 0) for r in readings], "u1"),
        texts={i: r.text for i, r in enumerate(readings) if r.text is not None},
    )


def beat_frame(beat: Beat, seq: int = 0) -> Frame:
    """A heartbeat or gap frame."""
    gap = Gap(from_ns=beat.time_ns - SECOND, to_ns=beat.time_ns, cause="test") if beat.kind == "gap" else None
    return Frame(
        asset="R101",
        source="test",
        epoch=1,
        seq=seq,
        kind=beat.kind,  # type: ignore[arg-type]
        time_ns=beat.time_ns,
        gap=gap,
        **empty_columns(Frame),
    )


def frames_of(events: Sequence[Event], cuts: Iterable[bool]) -> list[Frame]:
    """The events as frames: readings share one until a cut (one bool per event: cut before it) or a beat."""
    frames: list[Frame] = []
    batch: list[Reading] = []

    def close() -> None:
        if batch:
            frames.append(frame_of(batch, len(frames)))
            batch.clear()

    for event, cut in zip(events, cuts, strict=True):
        if cut or isinstance(event, Beat):
            close()
        if isinstance(event, Beat):
            frames.append(beat_frame(event, len(frames)))
        else:
            batch.append(event)
    close()
    return frames


def series(values: Iterable[float], interval_s: float = 1.0, **common: Any) -> list[Reading]:
    """Readings of one tag at regular times."""
    step_ns = round(interval_s * SECOND)
    return [Reading(value=v, source_ns=T0 + i * step_ns, **common) for i, v in enumerate(values)]


def settings_of(plant: Plant) -> Settings:
    """The settings of a configuration, as the agents make them."""
    return Settings(
        tag=lambda asset, tag: plant.tag(asset, tag).model_dump(),
        asset=lambda asset: plant.asset(asset).model_dump(),
        twin=plant.twin.model_dump(),
    )


def run(name: str, frames: Sequence[Frame], plant: Plant) -> tuple[StageState, list[Any]]:
    """State and outputs of a stage after raw frames went through all stages up to it."""
    state, outputs = StageState(stage="", asset=""), list(frames)
    for stage_name, entry in STAGES.items():
        state, params = entry.stage.initial("R101"), entry.params_from(settings_of(plant))
        inputs, outputs = outputs, []
        for frame in inputs:
            state, out, _ = entry.stage.step(state, frame, params)
            outputs.append(out)
        if stage_name == name:
            return state, outputs
    raise KeyError(name)


def inputs_of(name: str, frames: Sequence[Frame], plant: Plant) -> list[Any]:
    """What a stage gets when raw frames went through the stages before it."""
    before = list(STAGES)[: list(STAGES).index(name)]
    return run(before[-1], frames, plant)[1] if before else list(frames)


def flattened(outputs: Iterable[Any]) -> Iterator[Any]:
    """What the outputs say, without how it was cut: a tuple per row of every frame, bits instead of numbers.

    Of twin states: every window, then every alert, and the last state without what belongs to its frame alone.
    """
    outputs = list(outputs)
    states = [out for out in outputs if isinstance(out, TwinState)]
    for out in outputs:
        if not isinstance(out, TwinState):
            yield from rows(out)
    yield from (repr(window) for state in states for window in state.windows)
    yield from (repr(alert) for state in states for alert in state.alerts)
    if states:
        yield repr(replace(states[-1], seq=0, windows=(), alerts=(), readings=0))


def rows(frame: Frame) -> Iterator[tuple[Any, ...]]:
    """A frame row by row: tag, unit, text, then every column as bytes."""
    names = [name for name in columns_of(type(frame)) if name != "tag"]
    for i, tag in enumerate(frame.tag.tolist()):
        columns = tuple(getattr(frame, name)[i].tobytes() for name in names)
        yield (frame.tags[tag], frame.units[tag], frame.texts.get(i), *columns)


def flags(frames: Iterable[ValidatedFrame]) -> list[int]:
    """The flags of all rows."""
    return [flag for frame in frames for flag in frame.flag.tolist()]


ODD_VALUES = (
    0.0, -0.0, 1e308, -1e308, 5e-324, 2.0**63, float("nan"), float("inf"), float("-inf"), 500.0, -51.0, 1e-7,
)  # fmt: skip
ODD_TIMES = (0, 1, 9_223_372_036_854_775_807, 9_214_646_400_000_000_000, -1, -9_223_372_036_854_775_808)
NAMES = (("temperature", "degC"), ("pressure", "kPa"), ("level", "%"), ("temperature", "K"), ("temperature.sv", "degC"))

#: All tests on, with limits that the random sequences reach.
EVERYTHING = Plant.model_validate(
    {
        "twin": {"windows_s": [1, 5]},
        "tags": {
            "*": {
                "interval_s": 1.0,
                "validation": {
                    "gap_factor": 2.5,
                    "suspect_span": [0, 300],
                    "fail_span": [-50, 400],
                    "rate_suspect_per_s": 20,
                    "rate_fail_per_s": 100,
                    "flat_tolerance": 0.5,
                    "flat_suspect_s": 3,
                    "flat_fail_s": 8,
                    "behind_limit_s": 3600,
                },
            }
        },
    }
)


def random_events(n: int, seed: int) -> list[Event]:
    """A reproducible sequence with everything in it that can happen to readings."""
    chance = random.Random(seed)
    events: list[Event] = []
    now_ns, level = T0, 85.0
    sent: list[Reading] = []
    for _ in range(n):
        now_ns += chance.choice((0, 1, SECOND // 10, SECOND, SECOND, 3 * SECOND))
        if chance.random() < 0.06:
            events.append(Beat(kind=chance.choice(("heartbeat", "gap")), time_ns=now_ns))
            continue
        if chance.random() < 0.02:
            level += chance.choice((-40.0, 40.0))
        tag, unit = chance.choice(NAMES)
        value = level + (0.0 if chance.random() < 0.2 else chance.gauss(0, 1))
        source_ns, text = now_ns - chance.choice((0, 0, 0, SECOND // 100)), None
        odd = chance.random()
        if odd < 0.05:
            value = chance.choice(ODD_VALUES)
        elif odd < 0.08:
            source_ns = chance.choice(ODD_TIMES)
        elif odd < 0.12:
            source_ns -= chance.choice((SECOND, 5 * SECOND, 7 * 86_400 * SECOND))
        elif odd < 0.15:
            value, text = float("nan"), chance.choice(("Bad", "Inp OutRange", "", "🔥"))
        elif odd < 0.22 and sent:
            events.append(replace(chance.choice(sent), arrival_ns=now_ns))
            continue
        status = chance.choice((0, 0, 0, 0, 0, 0, 0, 0x40000000, 0x80000000, 0xC0000000))
        mark = int(Mark.ARRIVAL_TIME_USED) if chance.random() < 0.02 else 0
        reading = Reading(
            tag=tag, unit=unit, source_ns=source_ns, arrival_ns=now_ns, value=value, status=status, mark=mark, text=text
        )
        sent.append(reading)
        events.append(reading)
    return events


@st.composite
def sequences(draw: st.DrawFn, max_size: int = 60) -> list[Event]:
    """Random sequences of events, short ones first."""
    n = draw(st.integers(1, max_size))
    return random_events(n, draw(st.integers(0, 2**32)))


@st.composite
def cuts(draw: st.DrawFn, n: int) -> list[bool]:
    """Where to cut a sequence of n events."""
    return draw(st.lists(st.booleans(), min_size=n, max_size=n))
