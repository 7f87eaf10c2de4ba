"""Line protocol of InfluxDB for every record that is stored, as text lines with times in ns.

| measurement      | tags                            | time                       | fields               |
|------------------|---------------------------------|----------------------------|----------------------|
| `reactor_sensor` | reactor_id, sensor_type, unit   | source time + ordinal      | see below            |
| `reactor_frame`  | reactor_id, source              | frame's time + seq mod 1e6 | epoch, seq, readings,|
|                  |                                 |                            | stored_ns (int)      |
| `reactor_twin`   | reactor_id                      | event time                 | `store/twin_lines.py` |
| `reactor_window` | reactor_id, sensor_type, window | start of the window        | count (int), mean,   |
|                  |                                 |                            | min, max (float)     |
| `reactor_alert`  | reactor_id, kind, sensor_type   | event time + CRC-32 of the | severity, message    |
|                  |                                 | message mod 1e6            | (string), value,     |
|                  |                                 |                            | event_ns (int)       |

Fields of a reading: `value`, `estimate`, `rate`, `std`, `innovation`, `nis` (float, absent where not finite),
`quality`, `tests`, `status`, `mark`, `arrival_ns`, `server_ns` (absent where 0), `seq` (int), `source` (string),
`reason` (string: the text that came instead of a number, or which infinity the number is).

Points of a replay have the further tag `run`, its name (`of_run`): they and the live ones never meet. Those of a
correction are such points, too.

Alerts of one kind, tag and time that say different things (a hole that three stages miss, two gaps that end together)
are different points by their message; the event time itself is the field `event_ns`.

`reactor_frame` says when InfluxDB confirmed the readings of a frame (`seq` and `source` lead from a reading to it).
An empty tag value, which line protocol does not have, is written as `none`.

The reading's lines are built column by column with string operations that run in C (a Python expression per reading
costs three times as much). Floats are the shortest decimal that reads back to the same bits. Rule: no I/O here.
"""

import zlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import repeat
from math import isfinite
from typing import Any, NamedTuple

import numpy as np
import orjson

from schemas.frames import Column, EstimateFrame
from schemas.records import Alert, Window

#: InfluxDB's range of times (models.MinNanoTime, MaxNanoTime): the ends of int64 are reserved.
MIN_TIME_NS = -(2**63) + 2
MAX_TIME_NS = 2**63 - 2
EMPTY_TAG = "none"

_FLOATS = ("value", "estimate", "rate", "std", "innovation", "nis")
_TAG_ESCAPES = str.maketrans({",": "\\,", "=": "\\=", " ": "\\ "})
_TEXT_ESCAPES = str.maketrans({'"': '\\"', "\\": "\\\\"})


class Refused(NamedTuple):
    """A reading, or a window of a state, that cannot be a point, and why. `row`: its index in the frame or state."""

    row: int
    reason: str


class UnstorableError(ValueError):
    """A record that cannot be a point. The message names the value and what is allowed."""


def reading_lines(frame: EstimateFrame) -> tuple[list[str], list[Refused]]:
    """One line per reading in the order of the frame, and the readings that cannot be stored."""
    if not len(frame):
        return [], []
    prefixes, bad_tags = _prefixes(frame)
    highest = MAX_TIME_NS - frame.ordinal.astype("<i8")
    outside = (frame.source_time_ns < MIN_TIME_NS) | (frame.source_time_ns > highest)
    refused = [Refused(row, _range_sentence(frame, row)) for row in np.flatnonzero(outside).tolist()]
    if bad_tags:
        tag = frame.tag.tolist()
        refused += [Refused(row, bad_tags[t]) for row, t in enumerate(tag) if t in bad_tags and not outside[row]]
        outside |= np.isin(frame.tag, list(bad_tags))
    rows = np.flatnonzero(~outside) if refused else np.arange(len(frame))
    return _lines(frame, rows, prefixes) if len(rows) else [], refused


def frame_line(frame: EstimateFrame, stored_ns: int) -> str:
    """When the readings of a frame were confirmed by InfluxDB. Raises UnstorableError."""
    tags = f"reactor_id={tag_value(frame.asset)},source={tag_value(frame.source)}"
    fields = f"epoch={frame.epoch}i,seq={frame.seq}i,readings={len(frame)}i,stored_ns={stored_ns}i"
    return f"reactor_frame,{tags} {fields} {checked_time(frame.time_ns + frame.seq % 1_000_000)}"


def window_line(asset: str, window: Window) -> str:
    """A closed window of one tag. Raises UnstorableError."""
    tags = f"reactor_id={tag_value(asset)},sensor_type={tag_value(window.tag)},window={window.window_s:g}s"
    numbers = {"mean": window.mean, "min": window.min, "max": window.max}
    return f"reactor_window,{tags} count={window.count}i{float_fields(numbers)} {checked_time(window.start_ns)}"


def alert_line(alert: Alert) -> str:
    """An alert. Raises UnstorableError."""
    tags = f"reactor_id={tag_value(alert.asset)},kind={tag_value(alert.kind)},sensor_type={tag_value(alert.tag)}"
    fields = f"severity={text_value(alert.severity)},message={text_value(alert.message)},event_ns={alert.time_ns}i"
    time_ns = checked_time(alert.time_ns + zlib.crc32(alert.message.encode()) % 1_000_000)
    return f"reactor_alert,{tags} {fields}{float_fields({'value': alert.value})} {time_ns}"


def of_run(lines: Sequence[str], run: str) -> list[str]:
    """The lines as points of a run: with the tag `run`. Raises UnstorableError where the name cannot be a tag."""
    tag = f"run={tag_value(run)}"
    split = (line.split(",", 1) for line in lines)  # the names of our measurements have no comma, and all have tags
    return [f"{measurement},{tag},{rest}" for measurement, rest in split]


def float_fields(numbers: Mapping[str, float | None]) -> str:
    """`,name=number` for every number that is there and finite. The names must need no escape."""
    return "".join(f",{name}={n!r}" for name, n in numbers.items() if n is not None and isfinite(n))


@lru_cache(maxsize=65_536)
def tag_value(text: str) -> str:
    """Tag value with its escapes. Raises UnstorableError where line protocol has no way to write it."""
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise UnstorableError(f"{text[:80]!r} as a tag of InfluxDB: allowed are characters that are no control codes")
    if text.endswith("\\") or any(f"\\{c}" in text for c in ",= "):
        raise UnstorableError(f"{text[:80]!r} as a tag of InfluxDB: no backslash at the end or before , = space")
    return text.translate(_TAG_ESCAPES) or EMPTY_TAG


def field_key(text: str) -> str:
    """Field key with its escapes. Raises UnstorableError as `tag_value` does."""
    if not text:
        raise UnstorableError("the name of a field is empty")
    return tag_value(text)


def text_value(text: str) -> str:
    """String field value with quotes and escapes."""
    return f'"{text.translate(_TEXT_ESCAPES)}"'


def checked_time(time_ns: int) -> int:
    """The time as it came. Raises UnstorableError where InfluxDB has no such time."""
    if not MIN_TIME_NS <= time_ns <= MAX_TIME_NS:
        raise UnstorableError(f"time {time_ns} ns: InfluxDB's range is {MIN_TIME_NS}…{MAX_TIME_NS}")
    return time_ns


def _range_sentence(frame: EstimateFrame, row: int) -> str:
    source, ordinal = int(frame.source_time_ns[row]), int(frame.ordinal[row])
    return f"source time {source} ns + ordinal {ordinal}: InfluxDB's range is {MIN_TIME_NS}…{MAX_TIME_NS}"


@lru_cache(maxsize=65_536)
def _prefix(asset: str, tag: str, unit: str) -> str:
    if not tag:
        raise UnstorableError("the tag's name is empty")
    return f"reactor_sensor,reactor_id={tag_value(asset)},sensor_type={tag_value(tag)},unit={tag_value(unit)} "


def _prefixes(frame: EstimateFrame) -> tuple[list[str], dict[int, str]]:
    """Measurement and tags per entry of the frame's tags, and why for those that cannot be written."""
    found, bad = [], {}
    for index, (tag, unit) in enumerate(zip(frame.tags, frame.units, strict=True)):
        try:
            found.append(_prefix(frame.asset, tag, unit))
        except UnstorableError as error:
            found.append("")
            bad[index] = str(error)
    return found, bad


def _lines(frame: EstimateFrame, rows: Column, prefixes: list[str]) -> list[str]:
    every = len(rows) == len(frame)

    def taken(column: Column) -> Column:
        return column if every else column[rows]

    parts: list[Any] = [
        [prefixes[t] for t in taken(frame.tag).tolist()],
        _fragments("quality", taken(frame.flag), "i", first=True),
        _fragments("tests", taken(frame.tests), "i"),
        _fragments("status", taken(frame.status), "i"),
        _fragments("mark", taken(frame.mark), "i"),
        *(_fragments(name, taken(getattr(frame, name)), absent="null") for name in _FLOATS),
        _fragments("arrival_ns", taken(frame.arrival_time_ns), "i"),
    ]
    if frame.server_time_ns.any():
        parts.append(_fragments("server_ns", taken(frame.server_time_ns), "i", absent="0"))
    reasons = _reasons(frame)
    if reasons:
        parts.append([reasons.get(row, "") for row in rows.tolist()])
    parts.append(repeat(f",source={text_value(frame.source)},seq={frame.seq}i "))
    parts.append(_numbers(taken(frame.source_time_ns) + taken(frame.ordinal)).split(","))
    return list(map("".join, zip(*parts, strict=False)))  # `repeat` has no end


def _reasons(frame: EstimateFrame) -> dict[int, str]:
    """`,reason="…"` by row: the text that came instead of a number, or which infinity the number is."""
    infinite = np.flatnonzero(np.isinf(frame.value)).tolist()
    texts = {row: str(float(frame.value[row])) for row in infinite} | frame.texts
    return {row: f",reason={text_value(text)}" for row, text in texts.items()}


def _fragments(name: str, column: Column, suffix: str = "", *, absent: str = "", first: bool = False) -> list[str]:
    """`,name=<number><suffix>` per element, empty where the number reads `absent`."""
    lead = f"{name}=" if first else f",{name}="
    numbers = _numbers(column)
    text = lead + numbers.replace(",", f"{suffix}\n{lead}") + suffix
    if absent and absent in numbers:
        text = text.replace(f"{lead}{absent}{suffix}", "")
    return text.split("\n")


def _numbers(column: Column) -> str:
    """The numbers with commas between, each the shortest that reads back the same; `null` for NaN and infinities."""
    return orjson.dumps(np.ascontiguousarray(column), option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].decode("ascii")
