"""Columns of frames, before and after validation's loops: value bits, readings that stay, rows for missing ones.

May not know: how a verdict is found.
"""

import json
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from kernels.validation_times import CROWDED, IMPUTED_ORDINAL
from schemas.frames import Column, Frame, ValidatedFrame, columns_of
from schemas.quality import STATUS_BAD, Flag, Mark, Test
from schemas.records import Rejected
from schemas.states import StageState

I64 = NDArray[np.int64]
#: Column of the state: unit of each tag's last reading, text, one per row.
UNIT = "unit"
#: Characters of a unit that the state keeps, as many as MQTT and the configuration allow. It is as wide as its widest
#: unit, a codec has to bound that, and an OPC UA server may send any: a row for a missing reading has what is left.
UNIT_CHARS_MAX = 64
RAW_COLUMNS = tuple(columns_of(Frame))
COLUMN_TYPES = columns_of(ValidatedFrame)
#: What a row for a missing reading has in the columns that the plan does not give.
IMPUTED = {
    "server_time_ns": 0,
    "value": np.nan,
    "status": STATUS_BAD,
    "mark": int(Mark.IMPUTED),
    "flag": int(Flag.MISSING),
    "tests": int(Test.GAP),
    "ordinal": IMPUTED_ORDINAL,
}


class Plan(NamedTuple):
    """The rows of the output, one entry each: see the columns of the plan in `kernels.validation_times`."""

    origin: I64
    source_ns: I64
    arrival_ns: I64
    tests: I64
    ordinal: I64
    unit: I64


def bits_of(frame: Frame) -> NDArray[np.uint64]:
    """What makes two values the same value: the bits of the number; with a text, a hash of bits and text."""
    bits = np.ascontiguousarray(frame.value).view(np.uint64)
    if not frame.texts:
        return bits
    bits = bits.copy()
    for i, text in frame.texts.items():
        data = bits[i].tobytes() + text.encode("utf-8", "surrogatepass")
        bits[i] = int.from_bytes(blake2b(data, digest_size=8).digest(), "little")
    return bits


def readings_kept(frame: Frame, plan: Plan) -> dict[str, Column]:
    """The raw columns of the readings that stay, and from the plan their `tests` so far and `ordinal`."""
    real = plan.origin >= 0
    picked = plan.origin[real]
    whole = len(picked) == len(frame)
    columns = {name: getattr(frame, name) if whole else getattr(frame, name)[picked] for name in RAW_COLUMNS}
    columns["tests"] = plan.tests[real].astype(np.uint32)
    columns["ordinal"] = plan.ordinal[real].astype(np.uint8)
    return columns


def output(frame: Frame, plan: Plan, kept: dict[str, Column], repeated: int, before: StageState) -> ValidatedFrame:
    """The validated frame: the readings in `kept`, and the plan's missing ones between them.

    `before` is the state before this frame: it has the unit of missing rows whose tag has no earlier reading here.
    """
    tags, units = frame.tags, frame.units
    if len(kept["tag"]) < len(plan.origin):
        names = list(zip(frame.tags, frame.units, strict=True))
        kept = _with_missing(plan, kept, _tags_of_missing(frame, plan, names, before))
        tags, units = tuple(tag for tag, _ in names), tuple(unit for _, unit in names)
    return ValidatedFrame(
        asset=frame.asset,
        source=frame.source,
        epoch=frame.epoch,
        seq=frame.seq,
        kind=frame.kind,
        connected=frame.connected,
        time_ns=frame.time_ns,
        tags=tags,
        units=units,
        texts=_texts(frame, plan),
        gap=frame.gap,
        repeated=repeated,
        **kept,
    )


def _tags_of_missing(frame: Frame, plan: Plan, names: list[tuple[str, str]], before: StageState) -> list[int]:
    """Index in `names` of the plan's missing rows, in order; names that are new are appended."""
    found = []
    for origin, unit in zip(plan.origin.tolist(), plan.unit.tolist(), strict=True):
        if origin >= 0:
            continue
        name = (frame.tags[unit], frame.units[unit]) if unit >= 0 else _named(before, -1 - origin)
        if name not in names:
            names.append(name)
        found.append(names.index(name))
    return found


def _named(before: StageState, row: int) -> tuple[str, str]:
    """Tag and unit of a row of the state; a row written before there were units has none."""
    units = before.columns.get(UNIT)
    return before.tags[row], "" if units is None else str(units[row])


def _with_missing(plan: Plan, kept: dict[str, Column], tag: list[int]) -> dict[str, Column]:
    real = plan.origin >= 0
    missing = ~real
    columns = {}
    for name, dtype in COLUMN_TYPES.items():
        column = columns[name] = np.empty(len(plan.origin), dtype)
        column[real] = kept[name]
        if name in IMPUTED:
            column[missing] = IMPUTED[name]
    columns["tag"][missing] = tag
    columns["source_time_ns"][missing] = plan.source_ns[missing]
    columns["arrival_time_ns"][missing] = plan.arrival_ns[missing]
    return columns


def _texts(frame: Frame, plan: Plan) -> dict[int, str]:
    if not frame.texts:
        return {}
    return {row: frame.texts[i] for row, i in enumerate(plan.origin.tolist()) if i in frame.texts}


def rejected(frame: Frame, verdict: NDArray[np.uint8], stage: str) -> tuple[Rejected, ...]:
    """A record for every reading that the store could not tell from others of the same time."""
    return tuple(_rejected(frame, i, stage) for i in np.flatnonzero(verdict == CROWDED).tolist())


def _rejected(frame: Frame, i: int, stage: str) -> Rejected:
    tag = int(frame.tag[i])
    reading: dict[str, Any] = {
        "tag": frame.tags[tag],
        "unit": frame.units[tag],
        "source_time_ns": int(frame.source_time_ns[i]),
        "value": float(frame.value[i]).hex(),
        "text": frame.texts.get(i),
        "status": int(frame.status[i]),
    }
    return Rejected(
        stage=stage,
        reason=f"more than {IMPUTED_ORDINAL} different values of one tag at one source time",
        asset=frame.asset,
        tag=frame.tags[tag],
        time_ns=int(frame.arrival_time_ns[i]),
        payload=json.dumps(reading).encode(),
    )


@lru_cache(1024)
def units_array(units: tuple[str, ...]) -> Column:
    """The first UNIT_CHARS_MAX of units as an array of text, shape (units,), as wide as the longest; read-only."""
    texts = np.array([unit[:UNIT_CHARS_MAX] for unit in units] or [""], np.str_)[: len(units)]
    texts.setflags(write=False)
    return texts


def newest_units(before: StageState, rows: int, frame: Frame, newest: I64) -> Column:
    """The unit of every row of the state, shape (rows,): that of the tag's last reading.

    `newest` is an index in the frame's tags per row, −1 where the frame has no reading of that tag.
    """
    old = before.columns.get(UNIT)
    touched = newest >= 0
    fresh = units_array(frame.units)[newest[touched]]
    if old is not None and len(old) == rows and np.array_equal(old[touched], fresh):
        return old
    units = np.zeros(rows, np.result_type(fresh, old) if old is not None else fresh.dtype)
    if old is not None:
        units[: len(old)] = old
    units[touched] = fresh
    # No wider than its texts: a state's bytes tell what it is, not by which units, in which frames, it came to be so.
    return units_array(tuple(units.tolist()))
