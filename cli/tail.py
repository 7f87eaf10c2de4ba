"""`twin tail`: any topic, decoded, one JSON object per line, without touching any consumer group."""

import codecs
import json
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Annotated, Any

import numpy as np
import typer
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaException, Message, TopicPartition

from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    configuration,
    on_topics_at_work,
    one_line_errors,
    printable,
    use_environment_of,
)
from runtime.config import Kafka
from runtime.generations import PlanError
from runtime.kafka import client_settings, watermarks
from schemas.codec import DecodeError, decode
from schemas.topics import TOPICS

#: A changelog row is the position it was written at (8 bytes), then the record.
POSITION_BYTES = 8
#: Of a payload: a line must stay one that a person can read; `twin rejected show` has more.
BYTES_SHOWN = 1000


class NoSuchTopic(ValueError):
    """A name that is not in the table of topics, or a topic that is not there yet."""


def tail(
    topic: Annotated[str, typer.Argument(help="raw, validated, estimates, state, alerts, rejected, or a changelog.")],
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    asset: Annotated[str | None, typer.Option(help="Only this asset.")] = None,
    from_start: Annotated[bool, typer.Option("--from-start", help="From the oldest record, not the newest.")] = False,
    seconds: Annotated[float | None, typer.Option(help="Stop after that many seconds.")] = None,
) -> None:
    """Show a topic decoded, one JSON object per line."""
    use_environment_of(run_dir)
    with one_line_errors(NoSuchTopic, KafkaException, PlanError):
        for line in lines(on_topics_at_work(configuration(config)).kafka, topic, asset, from_start, seconds):
            typer.echo(line)


def lines(kafka: Kafka, name: str, asset: str | None, from_start: bool, follow_s: float | None) -> Iterator[str]:
    """Lines of JSON for the topic's records, until `follow_s` seconds passed (None: for ever)."""
    topic = next((t for t in TOPICS if name in (t.name, t.full_name(kafka.prefix))), None)
    if topic is None:
        raise NoSuchTopic(f"topic {name!r} is unknown, allowed are {', '.join(t.name for t in TOPICS)}")
    consumer = Consumer({**client_settings(kafka), "group.id": "twin-tail", "enable.auto.commit": False})
    full_name = topic.full_name(kafka.prefix)
    partitions = consumer.list_topics(full_name, timeout=10).topics[full_name].partitions
    if not partitions:
        raise NoSuchTopic(f"topic {full_name} does not exist on {kafka.address}; `twin topics create` makes it")
    consumer.assign([TopicPartition(full_name, p, _start(consumer, full_name, p, from_start)) for p in partitions])
    end = None if follow_s is None else time.monotonic() + follow_s
    skip = POSITION_BYTES if topic.retention_ms is None else 0
    try:
        while end is None or time.monotonic() < end:
            message = consumer.poll(0.2)
            if message is None or (asset is not None and message.key() != asset.encode()):
                continue
            if message.error():
                raise KafkaException(message.error())
            yield printable(json.dumps(described(message, skip), ensure_ascii=False))
    finally:
        consumer.close()


def _start(consumer: Consumer, topic: str, partition: int, from_start: bool) -> int:
    if from_start:
        return int(OFFSET_BEGINNING)
    # A fixed offset rather than "end": what is written while the consumer still connects is shown too.
    return watermarks(consumer, topic, partition)[1]


def described(message: Message, skip: int) -> dict[str, Any]:
    """Where a record was and what it says; bytes that do not decode are shown with the reason."""
    value = message.value() or b""
    place = {"partition": message.partition(), "offset": message.offset()}
    try:
        record = decode(value[skip:])
    except DecodeError as error:
        return {**place, "undecodable": str(error), "bytes": value[:64].hex()}
    return {**place, "type": type(record).__name__, **{f.name: plain(getattr(record, f.name)) for f in fields(record)}}


def plain(value: Any) -> Any:
    """A value as JSON can hold it: columns as lists, NaN and infinities as text, bytes as text or hex."""
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, float) and not np.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return _readable(value)
    if isinstance(value, dict):
        return {"/".join(map(str, k)) if isinstance(k, tuple) else str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "__dataclass_fields__"):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    return value


def text_of(data: bytes, whole: bool) -> str | None:
    """Bytes as text; None where they are no UTF-8. Not `whole`: the last character may be cut off."""
    try:
        return codecs.getincrementaldecoder("utf-8")().decode(data, final=whole)
    except UnicodeDecodeError:
        return None


def _readable(data: bytes) -> str:
    """Bytes as text where they are printable, else in hex; the beginning of what is long."""
    shown = data[:BYTES_SHOWN]
    text = text_of(shown, whole=len(shown) == len(data))
    more = f" … and {len(data) - BYTES_SHOWN} bytes more" if len(data) > BYTES_SHOWN else ""
    return (text if text is not None and text.isprintable() else shown.hex()) + more
