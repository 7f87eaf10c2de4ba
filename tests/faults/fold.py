"""All stages folded in one process over the raw topic as it stands: what outputs and states must be, to the bit.

usage: python -m tests.faults.fold --config plant.toml --out expected.json
or, in Python, `fold(plant, Path("expected.json"))`. The file is what `python -m audit --expected` reads.

A record goes through the stages as through the agents: one that cannot be decoded, or stands under another key or in
another partition than its asset's, is rejected; an identity that was applied leaves no trace; a step that raises counts
as applied and has no output. Between the stages frames are written and read, as they are through Kafka.
"""

import argparse
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
from confluent_kafka import Consumer, KafkaError, TopicPartition

from agents.settings import kernel_settings
from kernels.stages import STAGES
from runtime.config import Plant
from runtime.generations import at_work
from runtime.kafka import client_settings, watermarks
from runtime.load import load
from runtime.partitions import home_partition
from schemas.codec import DecodeError, decode, decode_as, encode
from schemas.frames import Frame
from schemas.states import StageState
from schemas.topics import RAW

DIGEST_BYTES = 8


@dataclass(slots=True)
class Folded:
    """One stage after some frames: state per asset, digest of every output by stream and seq."""

    stage: Any
    params: Any
    states: dict[str, StageState] = field(default_factory=dict)
    outputs: dict[tuple[str, str, int], bytearray] = field(default_factory=dict)

    def apply(self, frame: Frame) -> bytes | None:
        """The output for one frame, as bytes; None where there is none."""
        state = self.states.get(frame.asset) or self.stage.initial(frame.asset)
        if state.has_applied(frame.identity):
            return None
        try:
            state, out, _ = self.stage.step(state, frame, self.params)
            data = None if out is None else encode(out)
        except Exception:  # the agent rejects the frame and counts it as applied
            state, data = state.with_applied(frame.identity), None
        self.states[frame.asset] = state
        if data is not None:
            digests = self.outputs.setdefault((frame.asset, frame.source, frame.epoch), bytearray())
            begin = frame.seq * DIGEST_BYTES
            digests.extend(bytes(max(0, begin - len(digests))))
            digests[begin : begin + DIGEST_BYTES] = blake2b(data, digest_size=DIGEST_BYTES).digest()
        return data

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "outputs": [[*key, _text(digests)] for key, digests in self.outputs.items()],
            "states": {asset: _text(encode(state)) for asset, state in self.states.items()},
        }


def fold(plant: Plant, path: Path) -> None:
    """Fold everything that raw has now, and write what must have come out of it to `path`."""
    settings = kernel_settings(plant)
    stages = {name: Folded(entry.stage, entry.params_from(settings)) for name, entry in STAGES.items()}
    twin: dict[str, bytes] = {}
    spans = _spans(plant)
    for partition, key, value in _records(plant, spans):
        data: bytes | None = value if _acceptable(key, value, partition, len(spans)) else None
        for stage in stages.values():
            if data is None:
                break
            frame = decode(data)
            assert isinstance(frame, Frame)
            data = stage.apply(frame)
        else:
            if data is not None:
                twin[key.decode()] = data
    expected = {
        "raw": {str(partition): span for partition, span in spans.items()},
        "stages": {name: stage.as_dict() for name, stage in stages.items()},
        "twin": {asset: _text(data) for asset, data in twin.items()},
    }
    path.write_bytes(orjson.dumps(expected))


def _acceptable(key: bytes, value: bytes, partition: int, partitions: int) -> bool:
    try:
        frame = decode_as(value, Frame)
    except DecodeError:
        return False
    return key == frame.asset.encode() and home_partition(key, partitions) == partition


def _spans(plant: Plant) -> dict[int, tuple[int, int]]:
    """First and last offset of every partition of raw."""
    name = RAW.full_name(plant.kafka.prefix)
    client = Consumer({**client_settings(plant.kafka), "group.id": "unused"})
    try:
        partitions = sorted(client.list_topics(name, timeout=30).topics[name].partitions)
        return {p: watermarks(client, name, p) for p in partitions}
    finally:
        client.close()


def _records(plant: Plant, spans: dict[int, tuple[int, int]]) -> Iterator[tuple[int, bytes, bytes]]:
    """(partition, key, value) of everything in `spans`, partition by partition."""
    name = RAW.full_name(plant.kafka.prefix)
    consumer = Consumer({**client_settings(plant.kafka), "group.id": "unused", "enable.partition.eof": True})
    try:
        for partition, (start, end) in spans.items():
            at = start
            if at < end:
                consumer.assign([TopicPartition(name, partition, start)])
            while at < end:
                for message in consumer.consume(1000, 1.0):
                    error = message.error()
                    if error is not None:
                        assert error.code() == KafkaError._PARTITION_EOF, error
                    elif message.partition() == partition and message.offset() < end:
                        at = message.offset() + 1
                        yield partition, message.key() or b"", message.value() or b""
    finally:
        consumer.close()


def _text(data: bytes | bytearray) -> str:
    return b64encode(data).decode()


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description="Write what must come out of the raw topic.")
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    wanted = parser.parse_args()
    plant = load(wanted.config)
    fold(plant.model_copy(update={"kafka": at_work(plant.kafka)}), wanted.out)


if __name__ == "__main__":
    main()
