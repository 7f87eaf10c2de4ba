"""What a run was made of: enough to make it again, and to see whether two runs may be compared.

It stands in the run's folder as `run.json`, and in the topic `<prefix>.runs` under the run's name (the last record of a
name counts).
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cache
from hashlib import blake2b
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import KafkaException, Producer
from confluent_kafka.admin import AdminClient, NewTopic

from replay.sources.span import Span
from runtime.config import Kafka, Plant
from runtime.kafka import client_settings

ROOT = Path(__file__).parents[2]
SOURCES = ("kernels", "schemas")
DIGEST_BYTES = 16
FILE = "run.json"
#: What of the configuration the stages see; the rest says where things are.
OF_KERNELS = ("tags", "assets", "twin")
ANSWER_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Corrected:
    """Of an asset in a correction: late readings, those of them that filters now take, and from where it was folded.

    `from_ns`: source time of the earliest of them; `offset`: the first record of raw whose results were written;
    `state`: where the state before that came from.
    """

    late: int
    corrected: int
    from_ns: int
    offset: int
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """A run. `offsets`: partition → [first, one after the last]; `state`: where the state at the beginning came from.

    `archived`: as `offsets`, what came from an archive, with what the state at the beginning was folded from;
    the rest came from the topic. `counts`: frames, readings, rejected, alerts and so on, of all partitions.
    `digests`: partition → asset → stage → digest (see `replay.results.digests`; those of `frames` "as-live" are
    over bytes, of "wide" over readings). `corrected`: per asset, of a correction (`twin correct`).
    """

    run: str
    params: str
    code: str
    source: str
    from_ms: int | None
    to_ms: int | None
    assets: tuple[str, ...]
    offsets: dict[str, tuple[int, int]]
    state: str
    frames: str
    to: str
    workers: int
    counts: dict[str, int] = field(default_factory=dict)
    digests: dict[str, dict[str, dict[str, str]]] = field(default_factory=dict)
    archived: dict[str, tuple[int, int]] = field(default_factory=dict)
    corrected: dict[str, Corrected] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_json(self) -> bytes:
        """The content of `run.json`."""
        return orjson.dumps(asdict(self), option=orjson.OPT_INDENT_2)


def loaded(data: bytes) -> Provenance:
    """The run in the content of a `run.json`. Raises ValueError."""
    plain: dict[str, Any] = orjson.loads(data)
    try:
        for name in ("offsets", "archived"):  # `archived` is absent in older ones
            plain[name] = {p: (first, last) for p, (first, last) in plain.get(name, {}).items()}
        plain["corrected"] = {asset: Corrected(**found) for asset, found in plain.get("corrected", {}).items()}
        return Provenance(**{**plain, "assets": tuple(plain["assets"]), "notes": tuple(plain["notes"])})
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"no provenance of a run: {error}") from error


def params_digest(plant: Plant) -> str:
    """Digest of all settings that the stages see, defaults included. The order of patterns counts: later ones win."""
    plain: dict[str, Any] = plant.model_dump(mode="json", include=set(OF_KERNELS))
    plain |= {table: list(plain[table].items()) for table in ("tags", "assets")}
    return blake2b(orjson.dumps(plain, option=orjson.OPT_SORT_KEYS), digest_size=DIGEST_BYTES).hexdigest()


@cache
def code_version() -> str:
    """Version of the package, and a digest of the sources that decide what results are.

    Raises FileNotFoundError where they are not: the digest of nothing would be the same for all code.
    """
    digest = blake2b(digest_size=DIGEST_BYTES)
    for folder in SOURCES:
        paths = sorted(path for path in (ROOT / folder).rglob("*") if path.suffix in (".py", ".avsc"))
        if not paths:
            raise FileNotFoundError(f"{ROOT / folder}: no sources, so the version of the code cannot be told")
        for path in paths:
            digest.update(f"{path.relative_to(ROOT).as_posix()}\0".encode() + path.read_bytes() + b"\0")
    try:
        number = version("process-twin")
    except PackageNotFoundError:
        number = "unknown"
    return f"{number}+{digest.hexdigest()}"


def offsets_of(span: Span) -> dict[str, tuple[int, int]]:
    """For `Provenance.offsets`."""
    return {str(p): (part.start, part.end) for p, part in sorted(span.parts.items())}


def runs_topic(prefix: str) -> str:
    """The topic of all runs of a system."""
    return f"{prefix}.runs"


def publish(kafka: Kafka, found: Provenance) -> None:
    """Write the record of a run to the topic of runs. Raises KafkaException."""
    name = runs_topic(kafka.configured_prefix)
    settings = client_settings(kafka)
    _make(AdminClient(settings), name, kafka.replication)
    failed: list[Any] = []
    producer = Producer({**settings, "enable.idempotence": True, "message.max.bytes": 16 * 1024 * 1024})
    producer.produce(name, found.as_json(), found.run.encode(), on_delivery=lambda error, _: failed.append(error))
    producer.flush(ANSWER_S)
    if not failed or failed[0] is not None:
        raise KafkaException(*(failed or ["no answer"]), f"while writing to {name}")


def _make(admin: AdminClient, name: str, replication: int) -> None:
    if name in admin.list_topics(timeout=ANSWER_S).topics:
        return
    config: Mapping[str, str] = {"cleanup.policy": "compact", "max.message.bytes": str(16 * 1024 * 1024)}
    topic = NewTopic(name, num_partitions=1, replication_factor=replication, config=dict(config))
    for made in admin.create_topics([topic], request_timeout=ANSWER_S).values():
        try:
            made.result()
        except KafkaException as error:
            if error.args[0].name() != "TOPIC_ALREADY_EXISTS":
                raise
