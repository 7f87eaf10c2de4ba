"""What must happen around a step, the same for every driver: agents and replays would else give other bytes.

May not know: where frames come from and where records go.
"""

from schemas.frames import Frame
from schemas.records import Alert
from schemas.states import StageState
from schemas.topics import MAX_RECORD_BYTES

STATE_MAX_BYTES = MAX_RECORD_BYTES * 15 // 16  # the rest is for what surrounds the columns in a row
UTF8_BYTES_MAX = 4  # per character


def lost_frames(stage: str, frame: Frame, lost: int) -> Alert:
    """The alert for frames that are missing before one."""
    return Alert(
        asset=frame.asset,
        kind="lost_frames",
        severity="warning",
        time_ns=frame.time_ns,
        message=f"{stage}: {lost} frames of {frame.source} are missing before seq {frame.seq}",
        value=float(lost),
    )


def too_large(state: StageState, *, grew: bool) -> str | None:
    """Why a frame that leads to this state must not be applied; None where it may be.

    A state that no longer fits a record could never be written to a changelog. `grew`: there are new tags.
    """
    size = sum(column.nbytes for column in state.columns.values())
    if grew or size > STATE_MAX_BYTES // 4:
        size += UTF8_BYTES_MAX * sum(map(len, state.tags))
    if size <= STATE_MAX_BYTES:
        return None
    return (
        f"the state of {state.asset!r} would take {size} bytes with {len(state.tags)} tags, allowed are "
        f"{STATE_MAX_BYTES}: make it several assets"
    )
