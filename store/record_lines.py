"""What is stored of a record: by the sink, by whoever stores one again, by a replay. Rule: no I/O, no Kafka."""

from schemas.codec import DecodeError, Record
from schemas.frames import EstimateFrame
from schemas.records import Alert, TwinState
from store.line_protocol import Refused, alert_line, reading_lines, window_line
from store.twin_lines import state_line


def lines_of(record: Record) -> tuple[list[str], list[Refused]]:
    """Lines of a record, and the readings of a frame that cannot be one. Raises DecodeError, UnstorableError."""
    if isinstance(record, EstimateFrame):
        return reading_lines(record)
    if isinstance(record, TwinState):
        return [state_line(record), *(window_line(record.asset, w) for w in record.windows)], []
    if isinstance(record, Alert):
        return [alert_line(record)], []
    raise DecodeError(f"record is a {type(record).__name__}, the sink stores estimates, states and alerts")
