"""The last states of a stage, as its changelog has them, and of the twins, against the expected ones. Pure.

A row is the offset of the last source record it has applied (8 bytes, little-endian) and the state in the codec's
bytes. Of several rows of an asset the greatest offset is the state.

| fault | meaning |
|---|---|
| missing | an asset has frames, but no row |
| unasked | a row of an asset of which raw has no frame |
| behind | the row has not applied the last frame of the asset, or names another offset than that frame's |
| differing | the state's bytes are not the expected ones |
| misplaced | the row is in another partition than its asset's home |
| unreadable | a row that is none |
| not_finite | a filter or a model holds a number that is not finite |
"""

import struct
from collections.abc import Mapping

import numpy as np

from audit.expected import Expected, ExpectedStage
from audit.kafka import Record, home
from audit.raw import Raw
from audit.tally import Tally
from schemas.codec import DecodeError, as_written_now, decode_as
from schemas.records import TwinState
from schemas.states import EPOCHS_REMEMBERED, StageState

FAULTS = ("missing", "unasked", "behind", "differing", "misplaced", "unreadable", "not_finite")
FIGURES = ("records", "assets")
TWIN_FAULTS = ("missing", "differing", "not_finite")

Applied = dict[tuple[str, int], int]

_POSITION = struct.Struct("<q")
#: Columns of which every number must be finite, by stage.
_FILTERS = {"estimation": ("filter",)}


class States:
    """Takes in all rows of a changelog, then `judge`."""

    def __init__(self, raw: Raw, partitions: int, expected: ExpectedStage | None, example_count: int = 10) -> None:
        self.tally = Tally(FAULTS, FIGURES, example_count)
        self._raw, self._partitions, self._expected = raw, partitions, expected
        self._rows: dict[bytes, bytes] = {}

    def add(self, record: Record) -> None:
        """Take in one row."""
        self.tally.figure("records")
        if len(record.value) < _POSITION.size:
            self.tally.fault(
                "unreadable", f"{record.key!r} at {record.partition}/{record.offset}: {len(record.value)} bytes"
            )
            return
        if home(record.key, self._partitions) != record.partition:
            self.tally.fault("misplaced", f"{record.key!r} at {record.partition}/{record.offset}")
        known = self._rows.get(record.key)
        if known is None or _position(known) <= _position(record.value):
            self._rows[record.key] = record.value

    def judge(self, applied: Mapping[str, int]) -> None:
        """Compare. `applied`: per asset the offset of the last frame that the stage had to apply."""
        self.tally.figure("assets", len(self._rows))
        rows = {key.decode("utf-8", "replace"): row for key, row in self._rows.items()}
        ends = self._ends() if self._expected is None else {}
        for asset in sorted(applied.keys() - rows.keys()):
            self.tally.fault("missing", asset)
        for asset, row in sorted(rows.items()):
            self._judge_row(asset, row, applied.get(asset), ends.get(asset, {}))

    def _judge_row(self, asset: str, row: bytes, applied: int | None, ends: Applied) -> None:
        data = row[_POSITION.size :]
        try:
            state = decode_as(data, StageState)
        except DecodeError as error:
            self.tally.fault("unreadable", f"{asset}: {error}")
            return
        if applied is None:
            self.tally.fault("unasked", asset)
            return
        if _position(row) != applied:
            self.tally.fault("behind", f"{asset}: applied offset {_position(row)}, the last frame has {applied}")
        for name in _FILTERS.get(state.stage, ()):
            if not np.isfinite(state.columns[name]).all():
                self.tally.fault("not_finite", f"{asset}: {name} {state.columns[name].tolist()}"[:300])
        if self._expected is None:
            self._judge_applied(asset, state, ends)
        elif as_written_now(data) != self._expected.states.get(asset):
            words = _differences(state, self._expected.states.get(asset))
            self.tally.fault("differing", f"{asset}: {words}")

    def _judge_applied(self, asset: str, state: StageState, ends: Applied) -> None:
        """Without expected states: the frames it says it has applied must be the last ones of their streams."""
        if state.applied != ends:
            self.tally.fault("differing", f"{asset}: applied {state.applied}, raw has {ends}")

    def _ends(self) -> dict[str, Applied]:
        """Per asset the last frame of each of its streams; of each source the newest epochs."""
        ends: dict[str, Applied] = {}
        for key, stream in self._raw.streams.items():
            seqs = (s for s in reversed(range(len(stream))) if (key, s) not in self._raw.unanswerable)
            last = next(seqs, None)
            if last is not None:
                ends.setdefault(key.asset, {})[key.source, key.epoch] = last
        for of_asset in ends.values():
            for source in {source for source, _ in of_asset}:
                for epoch in sorted(e for s, e in of_asset if s == source)[:-EPOCHS_REMEMBERED]:
                    del of_asset[source, epoch]
        return ends


def judge_twins(last: Mapping[str, bytes], expected: Expected | None, example_count: int = 10) -> Tally:
    """The last state of every twin, to the bit, and whether its model holds finite numbers."""
    tally = Tally(TWIN_FAULTS, ("assets",), example_count)
    tally.figure("assets", len(last))
    if expected is not None:
        for asset in sorted(expected.twin.keys() - last.keys()):
            tally.fault("missing", asset)
    for asset, data in sorted(last.items()):
        state = decode_as(data, TwinState)
        numbers = state.model_states | state.prediction
        if wrong := [name for name, value in numbers.items() if not np.isfinite(value)]:
            tally.fault("not_finite", f"{asset}: {', '.join(wrong)}")
        if expected is not None and data != expected.twin.get(asset):
            tally.fault("differing", f"{asset}: {_twin_differences(state, expected.twin.get(asset))}")
    return tally


def _position(row: bytes) -> int:
    position: int = _POSITION.unpack_from(row)[0]
    return position


def _differences(state: StageState, expected: bytes | None) -> str:
    if expected is None:
        return "no state is expected"
    other = decode_as(expected, StageState)
    names = [name for name in ("stage", "asset", "applied", "tags") if getattr(state, name) != getattr(other, name)]
    for name in sorted(state.columns.keys() | other.columns.keys()):
        ours, theirs = state.columns.get(name), other.columns.get(name)
        if ours is None or theirs is None or ours.tobytes() != theirs.tobytes() or ours.dtype != theirs.dtype:
            names.append(f"column {name}")
    return f"{', '.join(names) or 'order of entries'} not as expected"


def _twin_differences(state: TwinState, expected: bytes | None) -> str:
    if expected is None:
        return "no state is expected"
    other = decode_as(expected, TwinState)
    names = [n for n in TwinState.__slots__ if repr(getattr(state, n)) != repr(getattr(other, n))]
    return f"{', '.join(names) or 'bits of a number'} not as expected"
