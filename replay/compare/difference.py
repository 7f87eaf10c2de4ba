"""Where two records, or two states of a stage, differ first: tag, time, column and both values. Pure."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from replay.compare.outputs import time_of
from schemas.codec import decode
from schemas.frames import Frame, columns_of
from schemas.records import TwinState
from schemas.states import StageState

ENTRIES_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first difference of two records. `index`: of the reading in its frame, None where it is not in a reading.

    `column` is a column or field; values are texts, numbers with all their digits. `time_ns`: the reading's source
    time, else the frame's time.
    """

    column: str
    live: str
    run: str
    time_ns: int
    tag: str | None = None
    index: int | None = None


def difference(live: bytes, run: bytes) -> Difference:
    """The first difference of two records of the same identity and type that have other bytes. Raises DecodeError."""
    a, b = decode(live), decode(run)
    assert isinstance(a, Frame | TwinState)
    found = None
    if isinstance(a, Frame) and isinstance(b, Frame):
        found = _of_readings(a, b)
    if found is None:
        found = next(_of_fields(a, b, time_of(a)), None)
    return found or Difference(column="(bytes)", live=live.hex(), run=run.hex(), time_ns=time_of(a))


def _of_readings(a: Frame, b: Frame) -> Difference | None:
    """The first reading that differs, and there the first column. Compared are readings that both have."""
    n = min(len(a), len(b))
    first, name = n, ""
    for column in columns_of(type(a)):
        if not n:
            break
        one, other = (np.frombuffer(getattr(f, column)[:n].tobytes(), np.uint8).reshape(n, -1) for f in (a, b))
        differing = np.flatnonzero((one != other).any(axis=1))
        if len(differing) and differing[0] < first:
            first, name = int(differing[0]), column
    if name:
        texts = [shown(getattr(frame, name)[first]) for frame in (a, b)]
    elif len(a) != len(b):
        name, texts = "number of readings", [str(len(a)), str(len(b))]
        longer = a if len(a) > len(b) else b
        return _at(longer, n, name, texts)
    else:
        return None
    return _at(a, first, name, texts)


def _at(frame: Frame, index: int, column: str, texts: list[str]) -> Difference:
    tag, time_ns = frame.tags[int(frame.tag[index])], int(frame.source_time_ns[index])
    return Difference(column=column, live=texts[0], run=texts[1], time_ns=time_ns, tag=tag, index=index)


def _of_fields(a: Any, b: Any, time_ns: int) -> Iterator[Difference]:
    """Fields that differ; of a twin's state down to the field of a variable."""
    for f in fields(a):
        one, other = getattr(a, f.name), getattr(b, f.name)
        if isinstance(one, np.ndarray) or shown(one) == shown(other):
            continue
        if not (isinstance(one, dict) and isinstance(other, dict)):
            yield Difference(column=f.name, live=shown(one), run=shown(other), time_ns=time_ns)
            continue
        for name in sorted(one.keys() | other.keys(), key=str):
            entry, against = one.get(name), other.get(name)
            if shown(entry) == shown(against):
                continue
            inner = getattr(entry, "__dataclass_fields__", None) if against is not None else None
            for part in inner or ("",):
                mine, theirs = (getattr(v, part) if part else v for v in (entry, against))
                if shown(mine) != shown(theirs):
                    column = f"{f.name}.{part}" if part else f.name
                    yield Difference(column=column, live=shown(mine), run=shown(theirs), time_ns=time_ns, tag=str(name))


def states_differ(live: StageState, run: StageState) -> list[str]:
    """What differs between two states, a line per tag and column; the first ENTRIES_MAX."""
    return list(_entries(live, run))[:ENTRIES_MAX]


def _entries(a: StageState, b: StageState) -> Iterator[str]:
    for place in sorted(a.applied.keys() | b.applied.keys()):
        if a.applied.get(place) != b.applied.get(place):
            yield f"applied {place}: LIVE {a.applied.get(place)}, RUN {b.applied.get(place)}"
    if a.tags != b.tags:
        yield f"tags: LIVE {a.tags}, RUN {b.tags}"
    for name in sorted(a.columns.keys() | b.columns.keys()):
        one, other = a.columns.get(name), b.columns.get(name)
        if one is None or other is None or one.shape != other.shape or one.dtype != other.dtype:
            if one is not other:
                texts = ["absent" if c is None else f"{c.dtype} of {c.shape}" for c in (one, other)]
                yield f"{name}: LIVE {texts[0]}, RUN {texts[1]}"
            continue
        per_tag = len(a.tags) == len(b.tags) == len(one) and one.ndim > 0
        for row in range(len(one)) if per_tag else (slice(None),):
            if one[row].tobytes() != other[row].tobytes():
                where = f"{a.tags[row]} {name}" if isinstance(row, int) else name
                yield f"{where}: LIVE {shown(one[row])}, RUN {shown(other[row])}"


def shown(value: object) -> str:
    """A value with all its bits: numbers so that reading the text gives the same number."""
    if isinstance(value, np.ndarray):
        return np.array2string(value, threshold=12, floatmode="unique", max_line_width=100).replace("\n", "")
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and value != value:  # noqa: PLR0124  # NaN
        return "NaN"
    return repr(value)
