"""Frames: many readings of one asset in one Kafka record, as numpy columns.

A frame cannot be built wrong: lengths, element types and tag numbers are checked when it is made. Frames are
values: nobody changes a frame, a stage makes a new one. Rule: this file knows nothing of Avro.
"""

from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Kind = Literal["readings", "heartbeat", "gap"]
Column = NDArray[Any]


class FrameError(ValueError):
    """A frame that contradicts itself. The message names the field, the value and what is allowed."""


class Identity(NamedTuple):
    """What makes a frame the same frame wherever it is seen: `seq` counts from 0 per asset, source and epoch."""

    asset: str
    source: str
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A hole the connector knows of: readings that were measured or sent from `from_ns` to `to_ns` may be missing.
    Times in ns since 1970; `lost` is None where the number is unknown.
    """

    from_ns: int
    to_ns: int
    cause: str
    lost: int | None = None


def column(dtype: str) -> Any:
    """A frame field that holds one element of `dtype` per reading."""
    return field(metadata={"dtype": np.dtype(dtype)})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Frame:
    """Raw readings of one asset, n per column.

    Columns: `tag` (u16: index into tags and units), `source_time_ns`, `server_time_ns` (0: absent),
    `arrival_time_ns` (i64, ns since 1970), `value` (f64; NaN where there was no number), `status` (u32: OPC UA
    StatusCode), `mark` (u8: `schemas.quality.Mark`). `texts` maps a reading's index to the text that came instead
    of a number. `time_ns` is the connector's clock when the frame was closed; a heartbeat or gap frame has no
    readings, a gap frame names the tags concerned in `tags` (none: all of the asset's).
    """

    schema: ClassVar[str] = "RawFrame"

    asset: str
    source: str
    epoch: int
    seq: int
    kind: Kind = "readings"
    connected: bool = True
    time_ns: int
    tags: tuple[str, ...] = ()
    units: tuple[str, ...] = ()
    tag: Column = column("<u2")
    source_time_ns: Column = column("<i8")
    server_time_ns: Column = column("<i8")
    arrival_time_ns: Column = column("<i8")
    value: Column = column("<f8")
    status: Column = column("<u4")
    mark: Column = column("u1")
    texts: dict[int, str] = field(default_factory=dict)
    gap: Gap | None = None

    def __post_init__(self) -> None:
        n = len(self.tag)
        for name, dtype in columns_of(type(self)).items():
            array = getattr(self, name)
            if not isinstance(array, np.ndarray) or array.dtype != dtype or array.shape != (n,):
                raise FrameError(f"column {name}: expected {n} elements of {dtype}, got {_describe(array)}")
        if len(self.units) != len(self.tags):
            raise FrameError(f"units: {len(self.units)} entries, allowed is one per tag ({len(self.tags)})")
        if n and int(self.tag.max()) >= len(self.tags):
            raise FrameError(f"tag: index {int(self.tag.max())}, allowed is 0…{len(self.tags) - 1}")
        if (self.kind != "gap") != (self.gap is None):
            raise FrameError(f"kind: {self.kind!r} with gap={self.gap!r}; a gap frame has a gap, no other frame has")
        if not self.asset or not self.source:
            raise FrameError(f"asset {self.asset!r}, source {self.source!r}: must not be empty")
        if self.seq < 0 or self.epoch < 0:
            raise FrameError(f"epoch {self.epoch}, seq {self.seq}: must not be negative")
        if any(not 0 <= index < n for index in self.texts):
            raise FrameError(f"texts: indices {sorted(self.texts)}, allowed is 0…{n - 1}")

    def __len__(self) -> int:
        return len(self.tag)

    def __eq__(self, other: object) -> bool:
        """Equal to the bit: −0.0 differs from 0.0, NaN equals a NaN of the same bits."""
        if type(self) is not type(other):
            return NotImplemented
        return all(_same_bits(getattr(self, f.name), getattr(other, f.name)) for f in fields(self))

    @property
    def identity(self) -> Identity:
        """What makes this the same frame in every topic."""
        return Identity(self.asset, self.source, self.epoch, self.seq)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ValidatedFrame(Frame):
    """A raw frame with the verdict per reading: repetitions taken out, rows for missing readings put in.

    Columns: `flag` (u8: `schemas.quality.Flag`), `tests` (u32: `schemas.quality.Test`), `ordinal` (u8: 0, or n for
    the n-th further value at the same tag and source time; the store adds it to the time in ns so none disappears).
    `repeated` counts readings that were dropped because the same reading had been seen before.
    """

    schema: ClassVar[str] = "ValidatedFrame"

    flag: Column = column("u1")
    tests: Column = column("<u4")
    ordinal: Column = column("u1")
    repeated: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EstimateFrame(ValidatedFrame):
    """A validated frame with the estimated true state per reading, NaN where there is none.

    Columns, all f64: `estimate` (unit of the value), `rate` (unit/s), `std` (unit; of the estimate), `innovation`
    (unit; reading minus prediction), `nis` (1; normalised innovation squared).
    """

    schema: ClassVar[str] = "EstimateFrame"

    estimate: Column = column("<f8")
    rate: Column = column("<f8")
    std: Column = column("<f8")
    innovation: Column = column("<f8")
    nis: Column = column("<f8")


_COLUMNS: dict[type, dict[str, np.dtype[Any]]] = {}


def columns_of(frame_type: type) -> dict[str, np.dtype[Any]]:
    """Name and element type of every column of a frame type, in the order of the fields."""
    found = _COLUMNS.get(frame_type)
    if found is None:
        found = {f.name: f.metadata["dtype"] for f in fields(frame_type) if "dtype" in f.metadata}
        _COLUMNS[frame_type] = found
    return found


def empty_columns(frame_type: type) -> dict[str, Column]:
    """The columns of a frame without readings (heartbeat, gap)."""
    return {name: np.empty(0, dtype) for name, dtype in columns_of(frame_type).items()}


def _same_bits(a: object, b: object) -> bool:
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    return a == b


def _describe(array: object) -> str:
    return f"{array.shape} of {array.dtype}" if isinstance(array, np.ndarray) else repr(type(array))
