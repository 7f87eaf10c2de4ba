"""InfluxDB against the three topics that the sink stores: what estimates, states and alerts say must stand there.

| fault | meaning |
|---|---|
| estimates_missing | a reading of the topic has no point at its time, and the sink rejected none of that time |
| estimates_altered | a field of its point differs: a number (any bit), flag, tests, status, mark, time, source, seq |
| estimates_unasked | between the first and the last reading of a tag, a point that no frame has |
| states_missing | a state's event time has no point |
| states_altered | its point lacks a number of the state, or has one that no state of that time has |
| states_unasked | between the first and the last state of an asset, a point of a time that no state has |
| windows_missing, windows_altered, windows_unasked | the same of the windows that states tell |
| alerts_missing | no point at the alert's time says what it says |
| alerts_repeated | more points say what an alert says than there are such alerts |

Not judged are points of replays (they have the tag `run`), and what the sink rejected. Of an alert that no topic has
nothing is said: the system's earlier topics may have had it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from audit.alert_points import AlertPoints
from audit.estimate_points import EstimatePoints, refused_time
from audit.kafka import Cluster, Span
from audit.patience import Patience
from audit.state_points import Place, StatePoints
from audit.store import Database
from audit.tally import Tally
from schemas.codec import DecodeError, decode_as
from schemas.frames import EstimateFrame
from schemas.records import Alert, Rejected, TwinState
from schemas.topics import ALERTS, ESTIMATES, REJECTED, STATE

FAULTS = (
    "estimates_missing", "estimates_altered", "estimates_unasked", "states_missing", "states_altered", "states_unasked",
    "windows_missing", "windows_altered", "windows_unasked", "alerts_missing", "alerts_repeated",
)  # fmt: skip
FIGURES = ("estimates", "states", "windows", "alerts", "rejected_by_sink")
SINK = "sink"
WINDOW = b"reactor_window"  # the measurement, with which a line begins

R = TypeVar("R", EstimateFrame, TwinState, Alert, Rejected)


@dataclass(slots=True)
class Refused:
    """What the sink rejected: asset, tag and time of readings, places of states and alerts, places of states of which
    it rejected a window only.
    """

    readings: set[tuple[str, str, int]] = field(default_factory=set)
    records: set[Place] = field(default_factory=set)
    windows: set[Place] = field(default_factory=set)

    def add(self, rejected: Rejected, estimates: str) -> None:
        """Take in one; `estimates`: how that topic ends."""
        place = rejected.topic, rejected.partition, rejected.offset
        if not rejected.topic.endswith(estimates):
            of_window = rejected.tag or rejected.payload.startswith(WINDOW)
            (self.windows if of_window else self.records).add(place)
        elif (one := _decoded(rejected.payload, EstimateFrame)) is not None:  # no line can be made of it
            self.readings.add((rejected.asset, rejected.tag, refused_time(one)))
        elif (time_ns := rejected.payload.rpartition(b" ")[2]).lstrip(b"-").isdigit():  # the line that InfluxDB refused
            self.readings.add((rejected.asset, rejected.tag, int(time_ns)))


def judge_points(
    cluster: Cluster,
    spans: Mapping[str, Mapping[int, Span]],
    database: Database,
    since_ns: int,
    *,
    patience_s: float = 0.0,
    example_count: int = 10,
) -> Tally:
    """Compare. Points of readings that arrived before `since_ns` and are in no frame are of an earlier run. Waits up to
    `patience_s` for what is not there yet. Raises KafkaAuditError, StoreError.
    """
    tally, patience = Tally(FAULTS, FIGURES, example_count), Patience(patience_s)
    refused = Refused()
    for record in cluster.records(REJECTED, spans[REJECTED.name]):
        rejected = _decoded(record.value, Rejected)
        if rejected is not None and rejected.stage == SINK:
            tally.figure("rejected_by_sink")
            refused.add(rejected, ESTIMATES.name)

    estimates = EstimatePoints(database, refused.readings, since_ns, patience, tally)
    for record in cluster.records(ESTIMATES, spans[ESTIMATES.name]):
        if (frame := _decoded(record.value, EstimateFrame)) is not None:
            estimates.add(frame)
    estimates.judge()

    states = StatePoints(database, refused.records, refused.windows, patience, tally)
    topic = STATE.full_name(cluster.prefix)
    for record in cluster.records(STATE, spans[STATE.name]):
        if (state := _decoded(record.value, TwinState)) is not None:
            states.add(state, (topic, record.partition, record.offset))
    states.judge()

    alerts = AlertPoints(refused.records)
    topic = ALERTS.full_name(cluster.prefix)
    for record in cluster.records(ALERTS, spans[ALERTS.name]):
        if (alert := _decoded(record.value, Alert)) is not None:
            alerts.add(alert, (topic, record.partition, record.offset))
    alerts.judge(database, patience, tally)
    return tally


def _decoded(data: bytes, record_type: type[R]) -> R | None:
    """The record; None for what is none of that type: the sink stores no such thing."""
    try:
        return decode_as(data, record_type)
    except DecodeError:
        return None
