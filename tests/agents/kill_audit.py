"""What must be true after workers were killed: outputs and states equal to a fold in one process, bit for bit."""

from collections.abc import Iterator
from dataclasses import dataclass

from confluent_kafka import Consumer, KafkaError, TopicPartition

from agents.settings import kernel_settings
from kernels.stages import STAGES, Entry
from runtime.changelog import recover, unpack
from runtime.config import Kafka, Plant
from runtime.kafka import client_settings
from schemas.codec import decode, decode_as, encode
from schemas.frames import Frame, Identity
from schemas.states import StageState
from schemas.topics import CHANGELOGS, RAW, VALIDATED
from tests.agents.counting import COUNTING

FAULTS = ("missing", "conflicting", "wrong", "misplaced", "wrong_states")


@dataclass
class Figures:
    """What a run did and what came out of it."""

    stage: str
    workers: int
    seed: int
    sent: int = 0
    kills: int = 0
    kills_under_load: int = 0
    fail_point_kills: int = 0
    stops: int = 0
    left: int = 0
    outputs: int = 0
    missing: int = 0
    repeated: int = 0
    conflicting: int = 0
    wrong: int = 0
    misplaced: int = 0
    wrong_states: int = 0
    slowest_recovery_s: float = 0.0
    seeks: int = 0

    def faults(self) -> dict[str, int]:
        """What must be zero."""
        return {n: getattr(self, n) for n in FAULTS if getattr(self, n)}


def records(kafka: Kafka, topic: str) -> Iterator[tuple[int, bytes, bytes]]:
    """(partition, key, value) of all records of a topic, per partition in order."""
    consumer = Consumer({**client_settings(kafka), "group.id": "unused", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(kafka.partitions)])
    open_partitions = set(range(kafka.partitions))
    while open_partitions:
        for message in consumer.consume(1000, 0.1):
            error = message.error()
            if error is None:
                yield message.partition(), message.key(), message.value()
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition())
    consumer.close()


def audit(kafka: Kafka, stage: str, sent: list[Frame], figures: Figures) -> None:
    """Compare outputs and states with a fold of the same stage over the same frames in one process."""
    expected, states = folded(stage, sent)
    seen: dict[Identity, bytes] = {}
    last: dict[str, int] = {}
    homes: dict[bytes, int] = {key: p for p, key, _ in records(kafka, RAW.full_name(kafka.prefix))}
    for partition, key, value in records(kafka, VALIDATED.full_name(kafka.prefix)):
        out = decode(value)
        assert isinstance(out, Frame)
        figures.outputs += 1
        figures.misplaced += homes[key] != partition
        if out.identity in seen:
            figures.repeated += 1
            figures.conflicting += seen[out.identity] != value
            continue
        # The first appearance of a frame must follow that of its predecessor, else the next stage drops it.
        figures.misplaced += out.seq != last.get(out.asset, -1) + 1
        last[out.asset] = out.seq
        seen[out.identity] = value
        figures.wrong += value != expected.get(out.identity)
    figures.missing = len(expected.keys() - seen.keys())
    changelog = next(t for t in CHANGELOGS if t.name == "validation").full_name(kafka.prefix)
    rows = recover(kafka, changelog, range(kafka.partitions), lambda read: None).rows
    figures.wrong_states = sum(unpack(rows[a.encode()]).state != state for a, state in states.items())


def folded(stage: str, sent: list[Frame]) -> tuple[dict[Identity, bytes], dict[str, StageState]]:
    """Output bytes per identity and final state per asset, by folding the stage over the frames as sent."""
    entry = Entry(COUNTING, lambda settings: None) if stage == "counting" else STAGES[stage]
    params = entry.params_from(kernel_settings(Plant()))
    states: dict[str, StageState] = {}
    outputs = {}
    for made in sent:
        received = decode_as(encode(made), Frame)
        state = states.get(made.asset) or entry.stage.initial(made.asset)
        states[made.asset], out, _ = entry.stage.step(state, received, params)
        outputs[made.identity] = encode(out)
    return outputs, states
