"""The state a stage keeps per asset: one row of its changelog.

A row is self-describing (name, element type, shape, bytes of every column), so a stage can gain a column: a row written
before has none of that name, and the stage fills in its initial value.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from schemas.frames import Identity

#: How many epochs of one source are remembered: those that came last. A frame of an older one that comes at another
#: offset than before (sent again by the stage before, or by an old connector process, a zombie) is taken for a new one.
#: Each is some 30 bytes of a row; every start of a connector is one.
EPOCHS_REMEMBERED = 64


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageState:
    """State of one stage for one asset.

    `applied` maps (source, epoch) to the seq of the last frame applied, in the order in which they came first: an epoch
    is a time of the wall clock, so a newer one may be smaller. `tags` names the rows of the per-tag columns; `columns`
    maps a name to an array whose first axis is the tag (or of any shape, for asset-wide values).
    """

    schema: ClassVar[str] = "StageState"

    stage: str
    asset: str
    applied: dict[tuple[str, int], int] = field(default_factory=dict)
    tags: tuple[str, ...] = ()
    columns: dict[str, NDArray[Any]] = field(default_factory=dict)

    def __eq__(self, other: object) -> bool:
        """Equal to the bit."""
        if not isinstance(other, StageState):
            return NotImplemented
        return (
            (self.stage, self.asset, self.applied, self.tags) == (other.stage, other.asset, other.applied, other.tags)
            and self.columns.keys() == other.columns.keys()
            and all(_same_bits(a, other.columns[name]) for name, a in self.columns.items())
        )

    def has_applied(self, frame: Identity) -> bool:
        """Whether this frame, or a later one of its source and epoch, is already part of the state."""
        return frame.seq <= self.applied.get((frame.source, frame.epoch), -1)

    def may_have_forgotten(self, frame: Identity) -> bool:
        """Whether this frame's epoch may be one that was applied and is no longer remembered."""
        known = self._epochs(frame.source)
        return len(known) >= EPOCHS_REMEMBERED and frame.epoch not in known

    def lost_before(self, frame: Identity) -> int:
        """How many frames of this source and epoch are missing between the last one applied and this one.

        Of an epoch that begins, all before this one; but not where the source is new, and the topic may begin with this
        frame, or where a later epoch is known, and this one may have been forgotten.
        """
        last = self.applied.get((frame.source, frame.epoch))
        if last is None:
            known = self._epochs(frame.source)
            return frame.seq if known and frame.epoch > max(known) else 0
        return max(0, frame.seq - last - 1)

    def _epochs(self, source: str) -> list[int]:
        """Those of a source that are remembered, in the order in which they came first."""
        return [epoch for name, epoch in self.applied if name == source]

    def with_applied(self, frame: Identity) -> "StageState":
        """The same state, with this frame as the last one applied of its source and epoch."""
        applied = {**self.applied, (frame.source, frame.epoch): frame.seq}
        if len(applied) > len(self.applied):
            for place in [place for place in applied if place[0] == frame.source][:-EPOCHS_REMEMBERED]:
                del applied[place]
        return replace(self, applied=applied)


def _same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(a.dtype == b.dtype and a.shape == b.shape and np.ascontiguousarray(a).tobytes() == b.tobytes())
