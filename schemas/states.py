"""The state a stage keeps per asset: one row of its changelog.

A row is self-describing (name, element type, shape, bytes of every column), so a stage can gain a column: a row written
before has none of that name, and the stage fills in its initial value.
"""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from schemas.frames import Identity

#: How many epochs of one source are remembered. An older connector process that still delivers (a zombie)
#: is told from a repetition as long as no more than this many were started since.
EPOCHS_REMEMBERED = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class StageState:
    """State of one stage for one asset.

    `applied` maps (source, epoch) to the seq of the last frame applied. `tags` names the rows of the per-tag
    columns; `columns` maps a name to an array whose first axis is the tag (or of any shape, for asset-wide values).
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

    def lost_before(self, frame: Identity) -> int:
        """How many frames of this source and epoch are missing between the last one applied and this one."""
        last = self.applied.get((frame.source, frame.epoch))
        return 0 if last is None else max(0, frame.seq - last - 1)

    def with_applied(self, frame: Identity) -> "StageState":
        """The same state, with this frame as the last one applied of its source and epoch."""
        applied = {**self.applied, (frame.source, frame.epoch): frame.seq}
        epochs = sorted(epoch for source, epoch in applied if source == frame.source)
        for epoch in epochs[:-EPOCHS_REMEMBERED]:
            del applied[(frame.source, epoch)]
        return replace(self, applied=applied)


def _same_bits(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return bool(a.dtype == b.dtype and a.shape == b.shape and np.ascontiguousarray(a).tobytes() == b.tobytes())
