"""Where results of a replay go: the topics of a run, or a folder of Parquet files. One writer per worker process."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

from confluent_kafka import KafkaError, KafkaException, Producer

from replay.fold.lane import Folded, rejection
from replay.results.tables import Folder
from runtime.config import Kafka
from runtime.kafka import client_settings, create_topics
from schemas.codec import Record, encode
from schemas.records import KEY_BYTES_MAX, OUTPUT_TOO_LARGE, Rejected
from schemas.topics import ALERTS, ESTIMATES, MAX_RECORD_BYTES, REJECTED, STATE, VALIDATED, Topic

#: What a run writes, in the topics of its own prefix.
RUN_TOPICS = (VALIDATED, ESTIMATES, STATE, ALERTS, REJECTED)
OF_STAGE = (VALIDATED, ESTIMATES, STATE)
ROOM_S, DELIVERY_S = 0.1, 120.0


class WriteError(RuntimeError):
    """Results cannot be written. The message says where and why."""


class Writer(Protocol):
    """Takes the results of partitions, one partition after the other."""

    def begin(self, partition: int) -> None:
        """What comes now is of this partition."""

    def take(self, found: Folded) -> None:
        """Results of one frame. What cannot be written as a record is added to those that are rejected."""

    def end(self) -> None:
        """The partition is done: its results are durable when this returns. Raises WriteError."""


class NoWriter:
    """Keeps nothing."""

    def begin(self, partition: int) -> None:
        """Nothing to prepare."""

    def take(self, found: Folded) -> None:
        """Nothing to keep."""

    def end(self) -> None:
        """Nothing to finish."""


class FolderWriter:
    """Writes Parquet files."""

    def __init__(self, folder: Path) -> None:
        self._path = folder
        self._folder: Folder | None = None

    def begin(self, partition: int) -> None:
        """Open the partition's files."""
        self._folder = Folder(self._path, partition)

    def take(self, found: Folded) -> None:
        """Add the rows of a frame's results."""
        assert self._folder is not None
        if found.estimates is not None:
            self._folder.readings(found.estimates, found.raws)
        for alert in found.alerts:
            self._folder.alert(alert)
        if found.twin is not None:
            self._folder.state(found.twin)

    def end(self) -> None:
        """End the files."""
        assert self._folder is not None
        self._folder.close()


class TopicWriter:
    """Writes the topics of a run, every record to the partition number that its frame came from."""

    def __init__(self, kafka: Kafka) -> None:
        self._prefix, self._partition = kafka.prefix, 0
        self._failed: list[str] = []
        self._producer = Producer(_settings(kafka))

    def begin(self, partition: int) -> None:
        """What comes now goes to this partition."""
        self._partition = partition

    def take(self, found: Folded) -> None:
        """Send the records of a frame's results, as the agents do."""
        for topic, data in _outputs(found):
            self._send(found, topic, data)
        for alert in [*found.alerts, *(() if found.twin is None else found.twin.alerts)]:
            self._send(found, ALERTS, encode(alert))
        for rejected in found.rejected:
            self._send(found, REJECTED, encode(rejected))
        self._producer.poll(0)
        if self._failed:
            raise WriteError(self._failed[0])

    def end(self) -> None:
        """Wait until Kafka has everything. Raises WriteError."""
        left = self._producer.flush(DELIVERY_S)
        if left or self._failed:
            raise WriteError(
                self._failed[0] if self._failed else f"Kafka did not confirm {left} records in {DELIVERY_S:.0f} s"
            )

    def _send(self, found: Folded, topic: Topic, data: bytes) -> None:
        name, key = topic.full_name(self._prefix), found.key if topic is not REJECTED else found.key[:KEY_BYTES_MAX]
        while True:
            try:
                self._producer.produce(name, data, key, self._partition, on_delivery=self._delivered)
            except BufferError:
                self._producer.poll(ROOM_S)
            except KafkaException as error:
                if error.args[0].code() != KafkaError.MSG_SIZE_TOO_LARGE or topic not in OF_STAGE:
                    raise WriteError(f"{name}: {error}") from error
                found.rejected.append(_too_large(found, topic, len(data)))  # sent with the others
                return
            else:
                return

    def _delivered(self, error: KafkaError | None, message: Any) -> None:
        if error is not None:
            self._failed.append(f"{message.topic()}/{message.partition()}: {error.str()} ({error.name()})")


def _outputs(found: Folded) -> Iterator[tuple[Topic, bytes]]:
    """What goes to which topic, as bytes: those at hand, or made of the objects."""
    if found.encoded:
        yield from zip(OF_STAGE, found.encoded, strict=False)
        return
    outputs: Sequence[Record | None] = (found.validated, found.estimates, found.twin)
    for topic, output in zip(OF_STAGE, outputs, strict=True):
        if output is not None:
            yield topic, encode(output)


def _too_large(found: Folded, topic: Topic, size: int) -> Rejected:
    raw = found.raws[-1]
    reason = f"{OUTPUT_TOO_LARGE}: {size} bytes, allowed are {MAX_RECORD_BYTES}"
    stage = topic.writers[0]
    return rejection(
        raw, stage=stage, asset=raw.frame.asset, reason=reason, payload=raw.value, time_ns=raw.frame.time_ns
    )


def run_kafka(kafka: Kafka, run: str) -> Kafka:
    """The topics of a run: those of a prefix of its own, which outlives the generation of topics that it read."""
    return kafka.model_copy(update={"prefix": f"{kafka.configured_prefix}.run.{run}"})


def create_run_topics(kafka: Kafka, run: str) -> Kafka:
    """Make the topics of a run. Raises WriteError where there are some already, and what create_topics raises."""
    found = run_kafka(kafka, run)
    made = create_topics(found, RUN_TOPICS)
    if len(made) < len(RUN_TOPICS):
        raise WriteError(f"--run {run!r}: topics {found.prefix}.* are there already; allowed is a name that is new")
    return found


def _settings(kafka: Kafka) -> dict[str, Any]:
    return {
        **client_settings(kafka),
        "enable.idempotence": True,
        "acks": "all",
        "message.timeout.ms": round(DELIVERY_S * 1000),
        "message.max.bytes": MAX_RECORD_BYTES,
        "compression.type": "lz4",
        "linger.ms": 20,
        "log.connection.close": False,
    }
