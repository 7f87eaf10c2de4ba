"""Which row of a state belongs to which tag of a frame. May not know: what the rows hold."""

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from schemas.frames import Frame
from schemas.states import StageState

#: Row of a tag that has none.
NO_ROW = -1


def first_seen(state: StageState, frame: Frame) -> tuple[str, ...]:
    """Tags of a frame's readings that the state has no row for, in the order of their first readings.

    Not in the order of `frame.tags`: a dictionary may list tags without a reading here, and its order may differ
    between frames, yet the state must not depend on how readings were cut into frames.
    """
    known = _index(state.tags)
    new = {entry for entry, tag in enumerate(frame.tags) if tag not in known}
    if not new:
        return ()
    return tuple(frame.tags[entry] for entry in dict.fromkeys(frame.tag.tolist()) if entry in new)


def rows_in(state: StageState, tags: tuple[str, ...]) -> NDArray[np.int64]:
    """The state's row of each tag, NO_ROW where it has none; shape (tags,)."""
    known = _index(state.tags)
    return np.array([known.get(tag, NO_ROW) for tag in tags], np.int64)


@lru_cache(maxsize=4096)
def _index(tags: tuple[str, ...]) -> dict[str, int]:
    return {tag: row for row, tag in enumerate(tags)}
