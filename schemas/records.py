"""Records that people and other systems read: twin state, alerts, rejected. Plain Avro fields, no columns."""

from dataclasses import dataclass, field
from typing import ClassVar, Literal

from schemas.frames import Identity

Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejected:
    """Something that could not be used, with why, where it came from and its bytes, so that it can be sent again.

    `stage` names who rejected it ("connector.mqtt", "validation", "sink", …). `topic`, `partition`, `offset` are
    where it was read (an MQTT topic with −1, −1). `time_ns`: when it arrived, from the data where known.
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
