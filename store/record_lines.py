"""What is stored of a record: by the sink, by whoever stores one again, by a replay. Rule: no I/O, no Kafka."""

from schemas.codec import DecodeError, Record
from schemas.frames import EstimateFrame
from schemas.records import Alert, TwinState
from store.line_protocol import Refused, UnstorableError, alert_line, reading_lines, window_line
from store.twin_lines import state_line


def lines_of(record: Record) -> tuple[list[str], list[Refused]]:
    """Lines of a record, and the readings of a frame or windows of a state that cannot be one.

    Raises DecodeError, UnstorableError.
    """
    if isinstance(record, EstimateFrame):
        return reading_lines(record)
    if isinstance(record, TwinState):
        lines, refused = _window_lines(record)
        return [state_line(record), *lines], refused
    if isinstance(record, Alert):
        return [alert_line(record)], []
    raise DecodeError(f"record is a {type(record).__name__}, the sink stores estimates, states and alerts")


def _window_lines(state: TwinState) -> tuple[list[str], list[Refused]]:
    lines, refused = [], []
    for row, window in enumerate(state.windows):
        try:
            lines.append(window_line(state.asset, window))
        except UnstorableError as error:
            refused.append(Refused(row, str(error)))
    return lines, refused
