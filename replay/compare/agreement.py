"""Whether two generations gave the same, output by output, to the byte.

Compared by identity, so it does not matter in which partition or how often an output stands; repetitions must be equal.
"""

from hashlib import blake2b
from typing import NamedTuple

from replay.sources.topic import Reader
from schemas.codec import identity_of
from schemas.frames import Identity
from schemas.generations import Marks
from schemas.topics import ESTIMATES, STATE, VALIDATED, Topic

#: What stages write per frame.
OUTPUTS = (VALIDATED, ESTIMATES, STATE)
DIGEST_BYTES = 16


class Range(NamedTuple):
    """Outputs of one generation: from and to before these offsets, by topic."""

    prefix: str
    start: Marks
    end: Marks


class Agreement(NamedTuple):
    """How many outputs were compared; empty `difference`: they are equal."""

    compared: int
    difference: str = ""


def agree(reader: Reader, old: Range, new: Range) -> Agreement:
    """Every output of the old generation in its range must be in the new one's, byte for byte.

    Raises SourceError, KafkaException, DecodeError.
    """
    compared = 0
    for topic in OUTPUTS:
        found, difference = _digests(reader, new, topic)
        if difference:
            return Agreement(compared, difference)
        expected, difference = _digests(reader, old, topic)
        if difference:
            return Agreement(compared, difference)
        for identity, digest in expected.items():
            if found.get(identity) != digest:
                what = "is not" if identity not in found else "is another one"
                return Agreement(
                    compared,
                    f"{topic.name} of {identity.asset}, {identity.source}, epoch {identity.epoch}, seq {identity.seq} "
                    f"{what} in {topic.full_name(new.prefix)}",
                )
            compared += 1
    return Agreement(compared)


def _digests(reader: Reader, outputs: Range, topic: Topic) -> tuple[dict[Identity, bytes], str]:
    """Digest per identity, and the first repetition that is not equal."""
    found: dict[Identity, bytes] = {}
    name = topic.full_name(outputs.prefix)
    spans = dict(enumerate(zip(outputs.start[topic.name], outputs.end[topic.name], strict=True)))
    for record in (one for batch in reader.read(name, spans) for one in batch):
        value = record.value or b""
        identity = identity_of(value, topic.record)  # type: ignore[arg-type]
        digest = blake2b(value, digest_size=DIGEST_BYTES).digest()
        if found.setdefault(identity, digest) != digest:
            return found, f"{name}/{record.partition} offset {record.offset}: another record of its identity before"
    return found, ""
