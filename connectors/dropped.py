"""What stands for frames that had to be dropped: per asset one gap frame that says exactly what is missing.

It takes the identity of the last frame it stands for, so the asset's order is kept, and whoever counts `seq` sees the
frames that are gone. Gap frames can stand for gap frames. May not know Kafka.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from connectors.spool import Row, Spool
from schemas.codec import DecodeError, Record, decode, encode
from schemas.frames import Frame, Gap, empty_columns
from schemas.records import Alert

PIECE_ROWS, PIECE_BYTES = 1000, 8 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Merged:
    """`frame` stands for all frames of one asset and epoch; `readings` were dropped."""

    frame: Frame
    readings: int


def merged(frames: Sequence[Frame], cause: str) -> Merged:
    """One frame instead of several of one asset, source and epoch, in their order. The gap reaches from the first
    source time that is dropped to the last one; frames without readings or gaps leave the newest of them."""
    last = frames[-1]
    gaps = [gap for frame in frames if (gap := _missing(frame, cause)) is not None]
    dropped = sum(len(frame) for frame in frames)
    if not gaps:
        return Merged(last, dropped)
    gap = Gap(
        from_ns=min(g.from_ns for g in gaps),
        to_ns=max(g.to_ns for g in gaps),
        cause=next((g.cause for g in reversed(gaps) if g.cause == cause), gaps[-1].cause),
        lost=None if any(g.lost is None for g in gaps) else sum(g.lost or 0 for g in gaps),
    )
    concerned = [frame for frame in frames if len(frame) or frame.gap is not None]
    everything = any(not frame.tags for frame in concerned)
    tags = () if everything else tuple(dict.fromkeys(tag for frame in concerned for tag in frame.tags))
    empty: dict[str, Any] = empty_columns(Frame)
    stands = replace(last, kind="gap", tags=tags, units=("",) * len(tags), texts={}, gap=gap, **empty)
    return Merged(stands, dropped)


def _missing(frame: Frame, cause: str) -> Gap | None:
    if frame.gap is not None or not len(frame):
        return frame.gap
    times = frame.source_time_ns
    return Gap(from_ns=int(times.min()), to_ns=int(times.max()), cause=cause, lost=len(frame))


@dataclass(frozen=True, slots=True)
class Dropped:
    """How much had to go: rows of the spool, readings in them, and records that were no frames."""

    rows: int
    readings: int
    others: int


def drop(spool: Spool, after_id: int, before_ns: int | None, bytes_wanted: int, cause: str) -> Dropped:
    """Give up the oldest rows of a spool after a number: those from before a time, or without one as many as it takes
    to come down to `bytes_wanted`. Every piece of work is atomic. Raises SpoolTrouble, SpoolDamaged."""
    before = spool.rows
    readings = others = 0
    standing: dict[tuple[str, int], tuple[Row, Frame]] = {}  # the last row kept per asset and epoch
    while before_ns is not None or spool.bytes > bytes_wanted:
        rows = spool.read(after_id, PIECE_ROWS, PIECE_BYTES, before_ns)
        if not rows:
            break
        after_id = rows[-1].id
        groups: dict[tuple[str, int], list[tuple[Row, Frame]]] = {}
        touched = list(rows)
        kept: dict[int, bytes] = {}
        for row in rows:
            record = _decoded(row)
            if isinstance(record, Frame):
                groups.setdefault((row.key, record.epoch), []).append((row, record))
            elif isinstance(record, Alert):
                kept[row.id] = row.value
            else:
                others += 1
        for group, members in groups.items():
            if group in standing:
                touched.append(standing[group][0])
                members.insert(0, standing[group])
            stands = merged([frame for _, frame in members], cause)
            readings += stands.readings
            last = members[-1][0]
            kept[last.id] = encode(stands.frame)
            standing[group] = last._replace(value=kept[last.id]), stands.frame
        if len(kept) < len(touched) or readings:
            spool.replace(touched, kept)
    return Dropped(before - spool.rows, readings, others)


def _decoded(row: Row) -> Record | None:
    try:
        return decode(row.value)
    except DecodeError:
        return None
