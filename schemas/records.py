"""Records that people and other systems read: twin state, alerts, rejected. Plain Avro fields, no columns."""

from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal

from schemas.frames import Identity

Severity = Literal["info", "warning", "critical"]

#: Stages of the two records that `twin rejected retry` adds for one that it sends again: the frame as it is to be
#: sent, and that it was. Their `partition` and `offset` are those of the rejected record in the topic of rejected ones.
RETRY_PLANNED = "retry.planned"
RETRY_DONE = "retry.done"
#: Reasons of what cannot be sent again: they begin so.
OUTPUT_TOO_LARGE = "output too large"
UNTIMED = "a retained message without a time"
CUT_OFF = "payload of "
#: What is larger is named and not copied, so that a rejected record always fits into Kafka's.
PAYLOAD_BYTES_MAX = 8 * 1024 * 1024
KEY_BYTES_MAX = 1000
REASON_CHARS_MAX = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Something that could not be used, with why, where it came from and its bytes, so that it can be sent again.

    `stage` names who rejected it ("connector.mqtt", "validation", "sink", …). `topic`, `partition`, `offset` are
    where it was read (an MQTT topic with −1, −1). `time_ns`: when it arrived, from the data where known, else 0 (the
    record's own time in Kafka is when it was rejected).
    """

    schema: ClassVar[str] = "Rejected"

    stage: str
    reason: str
    asset: str = ""
    tag: str = ""
    topic: str = ""
    partition: int = -1
    offset: int = -1
    time_ns: int = 0
    payload: bytes = b""

    def fitting(self) -> "Rejected":
        """The same, small enough for Kafka: a payload that is too large is named, names and reasons are cut."""
        large = len(self.payload) > PAYLOAD_BYTES_MAX
        reason = self.reason[:REASON_CHARS_MAX]
        return replace(
            self,
            reason=f"{reason} ({len(self.payload)} bytes, not copied)" if large else reason,
            asset=_cut(self.asset),
            tag=_cut(self.tag),
            payload=b"" if large else self.payload,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    """Something a person should look at. `time_ns` is event time, so a replay raises the same alert."""

    schema: ClassVar[str] = "Alert"

    asset: str
    kind: str
    severity: Severity
    time_ns: int
    message: str
    tag: str = ""
    value: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Variable:
    """One process variable of the twin. Value, rate, std, residual in `unit`(/s); age in s; None where unknown."""

    value: float | None = None
    rate: float | None = None
    std: float | None = None
    age_s: float | None = None
    residual: float | None = None  # estimate minus model
    rmse: float | None = None  # rolling, model against estimate
    mae: float | None = None
    r2: float | None = None
    flag: int = 2
    unit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A closed window of event time over the accepted readings of one tag."""

    tag: str
    window_s: float
    start_ns: int
    count: int
    mean: float
    min: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinState:
    """The twin of one asset after one frame; the frame's identity is the record's.

    `time_ns` is event time (the newest accepted source time, advanced by arrival time while nothing comes),
    `clock_ns` the newest arrival time seen. `model_states` are the model's own states with units in the names
    (conversion, temperature_degC), `prediction` the same at `time_ns` + `horizon_s`. `coverage`: share of the
    asset's tags whose newest reading is good. `latency_ms`: newest arrival minus its source time.
    """

    schema: ClassVar[str] = "TwinState"

    asset: str
    source: str
    epoch: int
    seq: int
    time_ns: int
    clock_ns: int
    model: str
    variables: dict[str, Variable] = field(default_factory=dict)
    model_states: dict[str, float] = field(default_factory=dict)
    prediction: dict[str, float] = field(default_factory=dict)
    horizon_s: float = 60.0
    newest_age_s: float | None = None
    coverage: float | None = None
    latency_ms: float | None = None
    connections: dict[str, bool] = field(default_factory=dict)
    readings: int = 0
    windows: tuple[Window, ...] = ()
    alerts: tuple[Alert, ...] = ()

    @property
    def identity(self) -> Identity:
        """The identity of the frame this state follows."""
        return Identity(self.asset, self.source, self.epoch, self.seq)


def _cut(name: str) -> str:
    return name.encode()[:KEY_BYTES_MAX].decode("utf-8", "ignore")
