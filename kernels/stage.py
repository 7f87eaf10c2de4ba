"""What every stage is: one pure step, and the small tools that stages share.

A stage is folded over frames by an agent (live) or by a replay; both get the same bits. May not know: Kafka, clocks,
configuration files. What is shared here is plain numpy, since jitted functions are not shared (see `kernels.jit`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from schemas.frames import Frame, ValidatedFrame
from schemas.quality import Flag, Mark, Test
from schemas.records import Rejected
from schemas.states import StageState

FrameIn = TypeVar("FrameIn", bound=Frame)
Out = TypeVar("Out")
Params = TypeVar("Params")

#: Asset-wide column, shape (1,), i64: the asset's arrival clock in ns since 1970.
CLOCK = "clock_ns"

#: Verdicts about a reading's time: its value may be right, but no filter may be moved to that time.
TIME_TESTS = Test.LATE | Test.TIME


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What the configuration says, as plain mappings with the keys of `runtime.config` (`model_dump()` of each).

    `tag(asset, tag)` gives the settings of one tag, `asset(asset)` those of one asset, `twin` those of the twin stage.
    """

    tag: Callable[[str, str], Mapping[str, Any]]
    asset: Callable[[str], Mapping[str, Any]]
    twin: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stage(Generic[FrameIn, Out, Params]):
    """A stage of the flow.

    `initial(asset)` is the state before the first frame. `step(state, frame, params)` returns the new state, the one
    output for this frame and what was rejected. It changes none of its arguments; a frame already applied gives
    `(state, None, ())`. How the readings are cut into frames must not matter to any reading's outputs.
    """

    name: str
    initial: Callable[[str], StageState]
    step: Callable[[StageState, FrameIn, Params], tuple[StageState, Out | None, tuple[Rejected, ...]]]


def fold(
    stage: Stage[FrameIn, Out, Params], state: StageState, frames: Iterable[FrameIn], params: Params
) -> Iterator[tuple[StageState, Out | None, tuple[Rejected, ...]]]:
    """Step after step over frames of one asset: yields what each step returned, the state first."""
    for frame in frames:
        state, out, rejects = stage.step(state, frame, params)
        yield state, out, rejects


class ColumnSpec(NamedTuple):
    """A per-tag column of a state: element type, shape of one tag's entry, and the value a new tag starts with."""

    dtype: str
    shape: tuple[int, ...] = ()
    initial: float = 0


def writable(state: StageState, tags: Sequence[str], specs: Mapping[str, ColumnSpec]) -> StageState:
    """A copy whose columns may be written: every column of `specs` there, and a row for each of `tags`.

    New tags are appended in the order given (a name given twice counts once); a column that an older row lacks, or
    has with another type or shape per tag, starts from its initial value. Columns not in `specs` are passed on as
    they are. All copies are C-contiguous, aligned and own their memory, so kernels always see the same array types.
    """
    known = set(state.tags)
    new = dict.fromkeys(tag for tag in tags if tag not in known)
    grown = (*state.tags, *new) if new else state.tags
    columns = dict(state.columns)
    rows = len(grown)
    for name, spec in specs.items():
        columns[name] = _copied(columns.get(name), rows, spec)
    return StageState(stage=state.stage, asset=state.asset, applied=state.applied, tags=grown, columns=columns)


def _copied(old: NDArray[Any] | None, rows: int, spec: ColumnSpec) -> NDArray[Any]:
    if old is None or old.shape[1:] != spec.shape or old.dtype != spec.dtype:
        return np.full((rows, *spec.shape), spec.initial, spec.dtype)
    if len(old) == rows:
        return old.copy()
    new = np.full((rows, *spec.shape), spec.initial, spec.dtype)
    new[: len(old)] = old
    return new


def clock_of(state: StageState) -> int:
    """The asset's arrival clock in ns since 1970: the newest arrival time seen, 0 before the first."""
    column = state.columns.get(CLOCK)
    return 0 if column is None else int(column[0])


def clocks(state: StageState, frame: Frame) -> tuple[NDArray[np.int64], int]:
    """The arrival clock after each reading of a frame, shape (n,), and after the frame, in ns.

    Every reading moves it to its arrival time, a heartbeat or gap frame to the frame's own time; it never runs
    backwards. A readings-frame's `time_ns` does not count, since it depends on how the readings were cut.
    """
    clock = clock_of(state)
    after = np.maximum.accumulate(np.maximum(frame.arrival_time_ns, clock)) if len(frame) else np.empty(0, np.int64)
    if len(frame):
        clock = int(after[-1])
    if frame.kind != "readings":
        clock = max(clock, frame.time_ns)
    return after, clock


def with_clock(state: StageState, clock_ns: int) -> StageState:
    """The same state with its arrival clock at `clock_ns`."""
    return replace(state, columns={**state.columns, CLOCK: np.array([clock_ns], np.int64)})


def usable(frame: ValidatedFrame) -> NDArray[np.bool_]:
    """Which readings may move a filter or the twin, shape (n,).

    Not: FAIL, MISSING, imputed rows, values that are no finite number, and readings whose time cannot be trusted
    (late, or ahead of their arrival: one reading dated 2262 would make every later one look old).
    """
    fine: NDArray[np.bool_] = (frame.flag != Flag.FAIL) & (frame.flag != Flag.MISSING) & np.isfinite(frame.value)
    fine &= (frame.mark & Mark.IMPUTED) == 0
    fine &= (frame.tests & int(TIME_TESTS)) == 0
    return fine


def readonly(array: NDArray[Any]) -> NDArray[Any]:
    """A contiguous view that cannot be written.

    Jitted loops take a frame's columns so: decoded ones are read-only, others are not, and numba would compile every
    mixture of both anew.
    """
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view
