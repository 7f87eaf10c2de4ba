"""The one configuration: what may stand in `plant.toml`, with units and defaults. Parsed and checked once, then frozen.

Addresses that the file leaves out come from the environment (`twin env` prints them), else from loopback defaults.
Secrets never stand in the file: they come from the environment or from a file that the configuration names.
"""

import os
import re
from collections.abc import Mapping
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, Self, get_args
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    field_validator,
    model_validator,
)

from schemas.generations import Generation
from schemas.topics import user_id

Span = tuple[float, float]
Id = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]
Unit = Annotated[str, Field(max_length=64)]  # as many characters as a unit over MQTT may have
Positive = Annotated[float, Field(gt=0)]
Port = Annotated[int, Field(ge=1, le=65535)]
Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
#: A limit that can be switched off: TOML has no null, so the file says "off".
Limit = Annotated[Positive | None, BeforeValidator(lambda value: None if value == "off" else value)]
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_BROKER = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/,\[\]]+)(:\d{1,5})?")
#: Settings of Kafka that go with a protocol of users, and with one of certificates.
_WITH_SASL = ("username", "password_file", "passwords_dir", "KAFKA_USERNAME")
_WITH_TLS = ("ca_file", "certificate_file", "key_file", "KAFKA_CA_FILE")


class ConfigurationError(ValueError):
    """The configuration or the environment cannot be used. `problems` has one line for each thing that is wrong."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class UnreadableSecret(ConfigurationError, OSError):
    """The file of a secret cannot be read; also an OSError, as for whoever tries again until it can."""


class Section(BaseModel):
    """A table of the file: unknown keys are errors, and nothing changes after the check."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def secret(variable: str, file: Path | None, encoding: str = "utf-8") -> str | None:
    """A secret from a file, else from the file in VARIABLE_FILE, else from VARIABLE, else None. Never logged.

    White space around it is not part of it. Raises UnreadableSecret, and ConfigurationError where it has characters
    that cannot be sent in `encoding`; the message says where it stands and nothing of it.
    """
    where, found = variable, os.environ.get(variable)
    named = file or os.environ.get(f"{variable}_FILE")
    if named is not None:
        where = str(file or f"{variable}_FILE = {named}")
        try:
            found = Path(named).read_text("utf-8", "surrogateescape")
        except OSError as error:
            raise UnreadableSecret([f"{where}: cannot be read ({error.strerror})"]) from error
    if found is None:
        return None
    found = found.strip()
    if _CONTROL.search(found) or not _can_be_sent(found, encoding):
        raise ConfigurationError([f"{where}: has a character that cannot be sent; allowed is one line of {encoding}"])
    return found


def _can_be_sent(text: str, encoding: str) -> bool:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return False
    return True


def port(variable: str, default: int) -> int:
    """A TCP port from the environment, else the default. Raises ConfigurationError.

    Kubernetes sets MQTT_PORT=tcp://10.0.0.1:1883 in every pod where there is a service "mqtt".
    """
    text = os.environ.get(variable)
    if text is None:
        return default
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= 65535:
        _refuse(variable, text, "a number from 1 to 65535")
    return int(text)


def _url(name: str, value: str, schemes: tuple[str, ...]) -> str:
    try:
        parts = urlsplit(value)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:  # of the port, or of an IPv6 address
        good = False
    if not good:
        _refuse(name, value, " or ".join(f"{scheme}://HOST:PORT" for scheme in schemes))
    return value


def _refuse(name: str, value: str, allowed: str) -> NoReturn:
    raise ConfigurationError([f"{name} = {value!r}: allowed is {allowed}"])


def state_directory() -> Path:
    """Where a connector keeps what must outlive its process, unless the file says: TWIN_STATE_DIR, else the user's."""
    return Path(os.environ.get("TWIN_STATE_DIR", "~/.local/state/process-twin"))


class Kafka(Section):
    """Where Kafka is and how its topics are cut."""

    bootstrap: str | None = None
    prefix: Id = "twin"  # without dots: PREFIX.g2 is a generation of topics, PREFIX.run.NAME a run, of nothing else
    partitions: int = Field(16, ge=1, le=1024)
    replication: int = Field(1, ge=1, le=9)
    security: Protocol | None = None  # None: KAFKA_SECURITY, else PLAINTEXT
    sasl_mechanism: Literal["SCRAM-SHA-256", "SCRAM-SHA-512", "PLAIN"] = "SCRAM-SHA-512"
    username: str | None = None  # else KAFKA_USERNAME: every process has its own, see `twin acl`
    password_file: Path | None = None  # else KAFKA_PASSWORD
    passwords_dir: Path | None = None  # a password per user, as `twin acl` makes: every process takes its own
    ca_file: Path | None = None  # else KAFKA_CA_FILE, else the system's
    certificate_file: Path | None = None
    key_file: Path | None = None

    _configured_prefix: str | None = PrivateAttr(default=None)

    @property
    def configured_prefix(self) -> str:
        """The prefix that the file says, whatever generation of topics this is for; users are named by it."""
        return self._configured_prefix or self.prefix

    def at(self, generation: Generation) -> Self:
        """The same for the topics of a generation."""
        found = self.model_copy(update={"prefix": generation.prefix, "partitions": generation.partitions})
        found._configured_prefix = self.configured_prefix
        return found

    @property
    def address(self) -> str:
        """Bootstrap servers, `host:port[,host:port]`. Raises ConfigurationError."""
        found = self.bootstrap or os.environ.get("KAFKA_BOOTSTRAP", "127.0.0.1:9092")
        if not all(_BROKER.fullmatch(server.strip()) for server in found.split(",")):
            _refuse("kafka.bootstrap" if self.bootstrap else "KAFKA_BOOTSTRAP", found, "HOST:PORT[,HOST:PORT]")
        return found

    @property
    def protocol(self) -> Protocol:
        """How clients connect.

        Raises ConfigurationError where nothing is known by that name, where it would send a password in clear, and
        where it would leave out users or certificates that are configured.
        """
        name = self.security or os.environ.get("KAFKA_SECURITY", "PLAINTEXT")
        found: Protocol | None = next((known for known in get_args(Protocol) if known == name), None)
        if found is None:
            _refuse("KAFKA_SECURITY", name, ", ".join(get_args(Protocol)))
        if self.sasl_mechanism == "PLAIN" and found == "SASL_PLAINTEXT":
            raise ConfigurationError(
                ['sasl_mechanism = "PLAIN" with security = "SASL_PLAINTEXT" would send the password in clear']
            )
        users = () if found.startswith("SASL") else self._given(_WITH_SASL)
        certificates = () if found.endswith("SSL") else self._given(_WITH_TLS)
        if users or certificates:
            raise ConfigurationError(
                [
                    f'Kafka\'s {", ".join((*users, *certificates))} with security = "{found}" would not be used; set '
                    f"security, or KAFKA_SECURITY, to {'SASL_SSL' if users else 'SSL or SASL_SSL'}"
                ]
            )
        return found

    @property
    def user(self) -> str | None:
        """SASL user."""
        return self.username or os.environ.get("KAFKA_USERNAME")

    @property
    def password(self) -> str | None:
        """SASL password."""
        return secret("KAFKA_PASSWORD", self.password_file)

    def as_role(self, role: str) -> Self:
        """The same for one process: with `passwords_dir`, its user and password."""
        if self.passwords_dir is None:
            return self
        user = user_id(role, self.configured_prefix)
        return self.model_copy(
            update={"username": user, "password_file": self.passwords_dir / user, "passwords_dir": None}
        )

    @property
    def ca(self) -> Path | None:
        """Certificates of the authorities to trust; None: the system's."""
        found = self.ca_file or os.environ.get("KAFKA_CA_FILE")
        return None if found is None else Path(found)

    def _given(self, names: tuple[str, ...]) -> tuple[str, ...]:
        """Those of these settings and variables that are set."""
        return tuple(name for name in names if (os.environ.get(name) if name.isupper() else getattr(self, name)))

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.passwords_dir is not None and (self.username is not None or self.password_file is not None):
            raise ValueError("passwords_dir: every process has its own user; leave username and password_file out")
        if self.model_fields_set:  # the defaults say nothing that the environment could contradict
            _ = self.protocol  # for its errors
        return self


class Influxdb(Section):
    """Where InfluxDB 2 is."""

    url: str | None = None
    org: str | None = None
    bucket: str | None = None
    token_file: Path | None = None  # else INFLUX_TOKEN
    tokens_dir: Path | None = None  # else INFLUX_TOKENS_DIR: a token per role, as `twin tokens` makes
    ca_file: Path | None = None

    @property
    def address(self) -> str:
        """Base URL. Raises ConfigurationError."""
        name, found = "influxdb.url", self.url
        if not found:
            name, found = "INFLUX_URL", os.environ.get("INFLUX_URL", "http://127.0.0.1:8086")
        return _url(name, found, ("http", "https"))

    @property
    def organisation(self) -> str:
        """Organisation name."""
        return self.org or os.environ.get("INFLUX_ORG", "process-twin")

    @property
    def bucket_name(self) -> str:
        """Bucket name."""
        return self.bucket or os.environ.get("INFLUX_BUCKET", "plant")

    @property
    def token(self) -> str:
        """API token; empty where none is set. Raises as `secret`."""
        return secret("INFLUX_TOKEN", self.token_file, "latin-1") or ""  # which is what an HTTP header holds

    def as_role(self, role: str) -> Self:
        """The same for one process: the sink and who retries have tokens that write, who looks one that reads,
        a replay one for both."""
        folder = self.tokens_dir or os.environ.get("INFLUX_TOKENS_DIR")
        if folder is None or self.token_file is not None or role not in ("sink", "viewer", "operator", "replay"):
            return self
        return self.model_copy(update={"token_file": Path(folder) / role})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.tokens_dir is not None and self.token_file is not None:
            raise ValueError("tokens_dir and token_file: one of them; tokens_dir has a token for every role")
        return self


class Framing(Section):
    """How readings are gathered into frames."""

    linger_s: float = Field(0.1, ge=0, le=10)
    readings_max: int = Field(5000, ge=1, le=100_000)
    heartbeat_s: Positive = 5.0


class Spool(Section):
    """What a connector keeps on disk while Kafka is away, in its `state_dir`."""

    after_s: float = Field(2.0, ge=0.1, le=600)  # unconfirmed for so long: the spool takes over
    bytes_max: int = Field(1024**3, ge=1024**2)
    age_max_s: Positive = 3 * 86_400.0  # older readings become gap frames


class Mqtt(Section):
    """One MQTT connector process."""

    id: Id = "mqtt-1"
    host: str | None = None
    port: Port | None = None
    filters: tuple[str, ...] = ("reactor/+/sensor/#",)
    qos: Literal[0, 1] = 1
    receive_maximum: int = Field(128, ge=1, le=128)  # validation remembers 128 readings per tag
    payload_bytes_max: int = Field(1024 * 1024, ge=1024, le=8 * 1024 * 1024)  # larger ones are rejected
    session_expiry_s: int = Field(7 * 86_400, ge=0, le=0xFFFFFFFF)
    keepalive_s: int = Field(20, ge=5, le=600)
    silence_s: Limit = 300.0  # no message for so long is unhealthy, and a gap: brokers drop silently what rules forbid
    state_dir: Path = Field(default_factory=state_directory)  # assets heard and when; outlives the process
    watchdog_s: float = Field(60.0, ge=5, le=3600)  # a loop stuck for so long ends the process
    username: str | None = None
    password_file: Path | None = None  # else MQTT_PASSWORD
    tls: bool = False
    ca_file: Path | None = None
    certificate_file: Path | None = None
    key_file: Path | None = None
    framing: Framing = Framing()
    spool: Spool = Spool()  # for qos = 0; with 1 the broker keeps what Kafka does not have

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the broker. Raises ConfigurationError."""
        return (
            self.host or os.environ.get("MQTT_HOST", "127.0.0.1"),
            self.port or port("MQTT_PORT", 8883 if self.tls else 1883),
        )

    @property
    def password(self) -> str | None:
        """Password of `username`."""
        return secret("MQTT_PASSWORD", self.password_file)

    @field_validator("filters")
    @classmethod
    def _usable(cls, filters: tuple[str, ...]) -> tuple[str, ...]:
        if not filters:
            raise ValueError("allowed is at least one topic filter")
        for text in filters:
            *before, last = text.split("/")
            whole = all(level == "+" or not set(level) & {"+", "#"} for level in before)
            if not text or "\0" in text or not whole or (last not in ("+", "#") and set(last) & {"+", "#"}):
                raise ValueError(f"{text!r} is no MQTT topic filter; + stands for a whole level, # for all at the end")
            if before and before[0] == "$share":
                raise ValueError(f"{text!r}: a shared subscription loses the order of readings; use static filters")
        return filters


class OpcuaNode(Section):
    """One OPC UA variable. `node`: `ns=2;s=…`, or `nsu=URI;s=…` with the namespace by URI."""

    node: str = Field(pattern=r"^(ns=\d+;|nsu=[^;]+;)?[isgb]=.+$")
    asset: str = Field(min_length=1)
    tag: str = Field(min_length=1)
    unit: Unit | None = None  # None: the server's EngineeringUnits
    read: Literal["subscribe", "cyclic"] = "subscribe"
    interval_s: Positive | None = None  # sampling or reading interval; None: the tag's, else the publishing interval
    historised: bool = False


class Opcua(Section):
    """One OPC UA connector process."""

    id: Id = "opcua-1"
    url: str | None = None
    publishing_s: float = Field(0.1, ge=0.01, le=60)
    keepalive_s: Positive = 5.0
    queue_size: int | None = Field(None, ge=1, le=128)  # None: at least twice publishing / sampling
    nodes: tuple[OpcuaNode, ...] = ()
    #: Without `nodes`: every variable whose string id matches is subscribed. SV becomes tag `<tag>.sv`.
    discover: str = r"Reactor\.(?P<asset>[^.]+)\.(?P<tag>[^.]+)\.(?P<role>PV|SV)"
    tags_file: Path | None = None  # as written by `twin browse`
    security: Literal["Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss", "None"] = "Basic256Sha256"
    mode: Literal["SignAndEncrypt", "Sign", "None"] = "SignAndEncrypt"
    certificate_dir: Path = Path("~/.config/process-twin/opcua")
    #: Up to when each tag is in Kafka, and the session to take over after a crash. Must outlive the process.
    state_dir: Path = Field(default_factory=state_directory)  # session and newest times; outlives the process
    watchdog_s: float = Field(60.0, ge=5, le=3600)  # a loop stuck for so long ends the process
    server_certificate: Path | None = None  # pinned; None: the one pinned in certificate_dir by `twin browse --trust`
    username: str | None = None
    password_file: Path | None = None  # else OPCUA_PASSWORD
    user_certificate_file: Path | None = None
    user_key_file: Path | None = None
    framing: Framing = Framing()
    spool: Spool = Spool()

    @property
    def address(self) -> str:
        """Endpoint URL. Raises ConfigurationError."""
        name, found = "opcua.url", self.url
        if not found:
            name, found = "OPCUA_URL", os.environ.get("OPCUA_URL", "opc.tcp://127.0.0.1:4840")
        return _url(name, found, ("opc.tcp",))

    @property
    def password(self) -> str | None:
        """Password of `username`."""
        return secret("OPCUA_PASSWORD", self.password_file)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.security == "None") != (self.mode == "None"):
            raise ValueError(f'security = "{self.security}" with mode = "{self.mode}": both are "None" or neither is')
        if self.security == "None" and self.username is not None:
            raise ValueError('username with security = "None" would send the password in clear text')
        if (self.user_certificate_file is None) != (self.user_key_file is None):
            raise ValueError("user_certificate_file and user_key_file: both are given or neither is")
        names = set(re.compile(self.discover).groupindex)
        if not {"asset", "tag"} <= names:
            raise ValueError(f"discover: groups {sorted(names)}, allowed is a pattern with groups asset and tag")
        return self


class Validation(Section):
    """Limits of the validation tests for one tag, spans in the tag's `unit`; "off" (here None) switches a test off.

    Set points (`*.sv`) step by nature: zscore_limit and spike_percent are off for them unless `[tags]` says otherwise.
    """

    fail_span: Span | None = None  # None: by kind
    suspect_span: Span | None = None
    zscore_limit: Limit = 3.0
    zscore_window: int = Field(100, ge=2, le=100)
    zscore_min: int = Field(10, ge=2, le=100)
    spike_percent: Limit = 20.0
    rate_suspect_per_s: Limit = None
    rate_fail_per_s: Limit = None
    flat_tolerance: Limit = None
    flat_suspect_s: Limit = None
    flat_fail_s: Limit = None
    gap_factor: Limit = None  # needs the tag's interval_s
    ahead_limit_s: Limit = 600.0
    behind_limit_s: Limit = None
    restart_after: int = Field(5, ge=2, le=20)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("fail_span", "suspect_span"):
            span = getattr(self, name)
            if span is not None and not span[0] < span[1]:
                raise ValueError(f"{name} = {list(span)}: the first must be less than the second")
        fail, suspect = self.fail_span, self.suspect_span
        if fail and suspect and not (fail[0] <= suspect[0] and suspect[1] <= fail[1]):
            raise ValueError(f"suspect_span = {list(suspect)} must lie inside fail_span = {list(fail)}")
        for smaller, greater in (
            ("zscore_min", "zscore_window"),
            ("rate_suspect_per_s", "rate_fail_per_s"),
            ("flat_suspect_s", "flat_fail_s"),
        ):
            low, high = getattr(self, smaller), getattr(self, greater)
            if low is not None and high is not None and low > high:
                raise ValueError(f"{smaller} = {low} must not be greater than {greater} = {high}")
        return self


class Estimation(Section):
    """Noise and tests of the Kalman filter of one tag. Variances in unit² of the tag, times in s.

    Without `measurement_noise` the kind's typical noise applies (0.5 K² for a temperature); where kind or unit are
    unknown the filter still smooths, but its gate is off, as nobody has said how far a reading may be from it.
    """

    process_noise: Positive | None = None  # None: 0.02 times the measurement noise
    measurement_noise: Positive | None = None  # None: by kind
    noise_model: Literal["identity", "white_acceleration"] = "identity"
    suspect_factor: float = Field(10.0, ge=1)  # measurement noise of a suspect reading, times
    initial_variance: Positive | None = None  # None: twice the measurement noise
    gate_nis: Limit = 25.0  # a reading beyond this does not move the state
    gate_limit: int = Field(5, ge=1, le=1000)  # so many in a row restart the filter
    nis_window: int = Field(50, ge=5, le=1000)
    nis_confidence: float = Field(0.99, gt=0.5, lt=1)
    drift_delta: Positive | None = None  # Page-Hinkley on the normalised innovation: drift tolerated; None: 0.5
    drift_threshold: Limit = None  # None: no drift test


class Tag(Section):
    """Everything about the tags that match a pattern `asset/tag`."""

    kind: Literal["temperature", "pressure", "flow_rate", "ph", "other"] | None = None  # None: by the tag's name
    unit: Unit | None = None  # None: as the reading says
    interval_s: Positive | None = None  # expected (MQTT), sampling or reading (OPC UA) interval
    deadband: Positive | None = None  # edge reduction, in the unit: drop changes not greater than this
    swinging_door: Positive | None = None  # edge reduction, in the unit: largest deviation of the compressed trend
    reduction_max_s: Positive = (
        60.0  # edge reduction keeps one at least so often; must be less than interval_s × gap_factor
    )
    validation: Validation = Validation()
    estimation: Estimation = Estimation()


class Asset(Section):
    """The model of the assets that match a pattern, and its parameters."""

    model: Literal["batch_reactor", "cstr", "none"] = "batch_reactor"
    parameters: dict[str, float] = {}
    inputs: dict[str, str] = {}  # model input → tag, where the names differ
    horizon_s: Positive = 60.0


class Twin(Section):
    """The twin stage."""

    windows_s: tuple[Positive, ...] = ()  # e.g. [1, 60, 3600]: aggregates per tag by event time
    quality_window: int = Field(300, ge=10, le=10_000)  # samples in rolling RMSE, MAE, R²
    residual_limit: Limit = 10.0  # alert: model off by so many standard deviations of the estimate …
    residual_s: Positive = 30.0  # … for so long


class Agents(Section):
    """How stages run."""

    checkpoint_s: float = Field(2.0, ge=0.05, le=60)
    checkpoint_frames: int = Field(2000, ge=1, le=100_000)
    session_timeout_s: float = Field(6.0, ge=3, le=60)
    watchdog_s: float = Field(60.0, ge=5, le=3600)
    gather_s: float = Field(0.25, ge=0, le=1)  # stages wake up together so often; costs latency, saves CPU


class Sink(Section):
    """How the sink writes."""

    batch_frames: int = Field(1000, ge=1, le=100_000)
    batch_lines: int = Field(20_000, ge=1, le=200_000)
    timeout_s: Positive = 30.0


#: What holds for tags before any pattern of the file.
BUILT_IN_TAGS: dict[str, dict[str, Any]] = {"*.sv": {"validation": {"zscore_limit": None, "spike_percent": None}}}


class Plant(Section):
    """The whole file."""

    kafka: Kafka = Kafka()
    influxdb: Influxdb = Influxdb()
    mqtt: tuple[Mqtt, ...] = (Mqtt(),)
    opcua: tuple[Opcua, ...] = (Opcua(),)
    agents: Agents = Agents()
    sink: Sink = Sink()
    twin: Twin = Twin()
    #: Patterns (`*`, `?`) over asset ids, and over `asset/tag`. All that match apply, later ones win key by key.
    assets: dict[str, dict[str, Any]] = {}
    tags: dict[str, dict[str, Any]] = {}

    _tags: dict[tuple[str, str], Tag] = PrivateAttr(default_factory=dict)
    _assets: dict[str, Asset] = PrivateAttr(default_factory=dict)

    def as_role(self, role: str) -> Self:
        """The configuration of one process, by its name in the table of topics: with the secrets that are its own."""
        return self.model_copy(update={"kafka": self.kafka.as_role(role), "influxdb": self.influxdb.as_role(role)})

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        ids = [m.id for m in self.mqtt] + [o.id for o in self.opcua]
        twice = sorted({i for i in ids if ids.count(i) > 1})
        if twice:
            raise ValueError(f"connector id {twice[0]!r} is used twice; every connector needs its own")
        return self

    def tag(self, asset: str, tag: str) -> Tag:
        """Settings of one tag: all matching patterns of `[tags]`, merged."""
        found = self._tags.get((asset, tag))
        if found is None:
            merged = merged_for(f"{asset}/{tag}", BUILT_IN_TAGS)
            merge_into(merged, merged_for(f"{asset}/{tag}", self.tags))
            found = Tag.model_validate(merged)
            self._tags[asset, tag] = found
        return found

    def asset(self, asset: str) -> Asset:
        """Settings of one asset: all matching patterns of `[assets]`, merged."""
        found = self._assets.get(asset)
        if found is None:
            found = Asset.model_validate(merged_for(asset, self.assets))
            self._assets[asset] = found
        return found


def merged_for(name: str, patterns: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """What the patterns that match a name say together, later ones over earlier ones."""
    merged: dict[str, Any] = {}
    for pattern, values in patterns.items():
        if fnmatchcase(name, pattern):
            merge_into(merged, values)
    return merged


def merge_into(target: dict[str, Any], values: Mapping[str, Any]) -> None:
    """Puts values over those in `target`, key by key in tables within tables."""
    for key, value in values.items():
        if isinstance(value, Mapping):
            inner = target[key] = dict(target.get(key, {}))
            merge_into(inner, value)
        else:
            target[key] = value
