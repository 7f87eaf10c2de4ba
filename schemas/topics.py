"""The one table of topics: name, key, schema, partitions, retention, who writes and who reads.

Topics are created from this table, and a running system is compared with it: a different number of partitions would
send an asset's readings and its state to different workers, so it is an error and never repaired silently.
"""

from dataclasses import dataclass

from schemas.codec import Record
from schemas.frames import EstimateFrame, Frame, ValidatedFrame
from schemas.records import Alert, Rejected, TwinState
from schemas.states import StageState

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
#: Largest record: a state row of an asset with some thousand tags.
MAX_RECORD_BYTES = 16 * 1024 * 1024
#: A restart reads what compaction has left, and the segment that is written is never compacted: so it is short. Rows
#: younger than the lag stay, so that the newest one outlives what a process that stood still writes when it wakes up.
COMPACTION = {
    "segment.ms": str(HOUR_MS),
    "segment.bytes": str(4 * MAX_RECORD_BYTES),
    "min.cleanable.dirty.ratio": "0.3",
    "min.compaction.lag.ms": "600000",
}
DEFAULT_PREFIX = "twin"
DEFAULT_PARTITIONS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Topic:
    """One row of the table. Every topic is keyed by asset id (UTF-8). `retention_ms` None: compacted."""

    name: str
    record: type[Record]
    retention_ms: int | None
    writers: tuple[str, ...]
    readers: tuple[str, ...]

    def full_name(self, prefix: str = DEFAULT_PREFIX) -> str:
        """The name in Kafka. Changelogs are named as Faust names them: application, table, 'changelog'."""
        return (
            f"{prefix}.{self.name}" if self.retention_ms is not None else f"{app_id(self.name, prefix)}-rows-changelog"
        )

    def settings(self) -> dict[str, str]:
        """Kafka's settings of the topic."""
        common = {"max.message.bytes": str(MAX_RECORD_BYTES)}
        if self.retention_ms is None:
            return {**common, "cleanup.policy": "compact", **COMPACTION}
        return {**common, "cleanup.policy": "delete", "retention.ms": str(self.retention_ms)}


def app_id(stage: str, prefix: str = DEFAULT_PREFIX) -> str:
    """Id of a stage's Faust application, and so of its consumer group."""
    return f"{prefix}-{stage}"


def user_id(role: str, prefix: str = DEFAULT_PREFIX) -> str:
    """Name of a process's user in Kafka, by its name in the table."""
    return f"{prefix}-{role.replace('.', '-')}"


_STAGES = ("validation", "estimation", "twin")
_CONNECTORS = ("connector.mqtt", "connector.opcua")
_ALL = (*_CONNECTORS, *_STAGES, "sink")

RAW = Topic(
    name="raw",
    record=Frame,
    retention_ms=7 * DAY_MS,
    writers=(*_CONNECTORS, "operator"),  # who sends rejected records again
    readers=("validation", "replay"),
)
VALIDATED = Topic(
    name="validated",
    record=ValidatedFrame,
    retention_ms=DAY_MS,
    writers=("validation", "operator"),
    readers=("estimation",),
)
ESTIMATES = Topic(
    name="estimates",
    record=EstimateFrame,
    retention_ms=3 * DAY_MS,
    writers=("estimation",),
    readers=("twin", "sink"),
)
STATE = Topic(name="state", record=TwinState, retention_ms=3 * DAY_MS, writers=("twin",), readers=("sink", "page"))
ALERTS = Topic(name="alerts", record=Alert, retention_ms=30 * DAY_MS, writers=_ALL, readers=("sink", "page"))
REJECTED = Topic(
    name="rejected",
    record=Rejected,
    retention_ms=30 * DAY_MS,
    writers=(*_ALL, "operator"),
    readers=("operator",),
)
CHANGELOGS = tuple(
    Topic(name=stage, record=StageState, retention_ms=None, writers=(stage,), readers=(stage, "replay"))
    for stage in _STAGES
)

TOPICS = (RAW, VALIDATED, ESTIMATES, STATE, ALERTS, REJECTED, *CHANGELOGS)
