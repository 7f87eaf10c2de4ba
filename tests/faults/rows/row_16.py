"""Row 16: damaged Avro records on the topics of a running system, while good ones flow."""

import io
import random
from collections import Counter
from collections.abc import Iterator
from typing import Any

import fastavro
import numpy as np

from schemas.codec import HEADER_BYTES, MARKER, DecodeError, decode, encode, version_of
from schemas.frames import EstimateFrame, Frame, ValidatedFrame, columns_of
from schemas.topics import ESTIMATES, RAW, VALIDATED, Topic
from tests.faults.bad_data import LIGHT, Forger, Place, little_memory, rejected
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import System

TITLE = "Avro: truncated, unknown fingerprint, bit flips, absurd lengths, wrong columns"
ASSET = "BAD16"
READINGS = 20
BACK_S = 60.0
REJECTED_S = 120.0
BOMB_BYTES = 8 * 1024 * 1024
#: Topic, type, and which stages read it.
TARGETS: tuple[tuple[Topic, type[Frame], tuple[str, ...]], ...] = (
    (RAW, Frame, ("validation",)),
    (VALIDATED, ValidatedFrame, ("estimation",)),
    (ESTIMATES, EstimateFrame, ("twin", "sink")),
)
Kinds = dict[Place, tuple[str, tuple[str, ...]]]


def run(rig: Rig) -> None:
    """What cannot be a record is rejected by each stage that read it; what still is one harms no other asset."""
    under_load(rig, strike, load=LIGHT)


def strike(rig: Rig, system: System) -> None:
    """Write damaged frames of one asset to each topic, in random order, and look for each among the rejected."""
    system.pulse.ignored.add(ASSET)
    system.forged.add(ASSET)
    forger = Forger(system)
    damaged = [
        (topic, readers, kind, data)
        for topic, frame_type, readers in TARGETS
        for kind, data in damage(frame_type, rig.rng, rig.times(full=2000, short=100))
    ]
    rig.rng.shuffle(damaged)
    for topic, frame_type, _ in TARGETS:
        forger.write(topic, ASSET, encode(good(frame_type)))
    forger.flush()
    forger.places.clear()
    system.wait_flowing(BACK_S, record=False)
    of_bytes = {
        (topic.full_name(system.plant.kafka.prefix), data): (kind, readers) for topic, readers, kind, data in damaged
    }
    with little_memory(rig, system):
        for topic, _, _, data in damaged:
            forger.write(topic, ASSET, data)
        forger.flush()
        wanted = {place: of_bytes[place[0], data] for place, data in forger.places.items()}
        must = {(stage, *place) for place, (_, stages) in wanted.items()
                for stage in stages if is_unusable(forger.places[place], stage)}  # fmt: skip
        reasons: dict[tuple[str, str, int, int], str] = {}

        def all_there() -> bool:
            reasons.update({(r.stage, r.topic, r.partition, r.offset): r.reason for r in rejected(system)})
            return must <= reasons.keys()

        try:
            rig.wait_for(all_there, "every record that is none is rejected", REJECTED_S)
        finally:
            tell(rig, wanted, must, reasons)
        system.wait_flowing(BACK_S)
    rig.struck(len(forger.places))


def tell(rig: Rig, wanted: Kinds, must: set[tuple[str, str, int, int]], reasons: dict[Any, str]) -> None:
    """Require that each is rejected with a reason by each reader, and note how many of each kind were."""
    kinds, refused, still_records = Counter[str](), Counter[str](), Counter[str]()
    for place, (kind, stages) in wanted.items():
        for stage in stages:
            kinds[kind] += 1
            reason = reasons.get((stage, *place))
            refused[kind] += reason is not None
            still_records[kind] += (stage, *place) not in must
            if (stage, *place) in must:
                rig.require(reason, f"{kind} at {place}: rejected by {stage} with a reason")
    rig.note("written", dict(kinds))
    rig.note("rejected", dict(refused))
    # Avro has no checksum: a bit flipped within a number is another number. Kafka's checksum is made from what the
    # producer gives it, so it protects a record from there on; these were damaged before.
    rig.note("still a record after the damage (no reader can tell)", {k: n for k, n in still_records.items() if n})
    for kind in set(kinds) - {"flipped", "lengths"}:
        rig.require(not still_records[kind], f"{kind}: none of them is a record")


def is_unusable(data: bytes, stage: str) -> bool:
    """Whether a reader of the topic can tell that this is no frame of the asset."""
    try:
        record = decode(data)
    except DecodeError:
        return True
    expected = {"validation": Frame, "estimation": ValidatedFrame, "twin": EstimateFrame, "sink": EstimateFrame}
    return type(record) is not expected[stage] or (stage != "sink" and getattr(record, "asset", "") != ASSET)


def good(frame_type: type[Frame]) -> Frame:
    """A frame that keeps all rules."""
    columns = {name: np.ones(READINGS, dtype) for name, dtype in columns_of(frame_type).items()}
    columns["tag"] = (np.arange(READINGS) % 2).astype("<u2")
    columns["source_time_ns"] = columns["arrival_time_ns"] = 1_761_474_615_000_000_000 + np.arange(READINGS) * 10**8
    return frame_type(
        asset=ASSET, source="forged", epoch=1, seq=0, time_ns=1_761_474_620_000_000_000,
        tags=("temperature", "level"), units=("degC", "%"), texts={3: "Bad"}, **columns,
    )  # fmt: skip


def damage(frame_type: type[Frame], rng: random.Random, count: int) -> Iterator[tuple[str, bytes]]:
    """(kind, bytes) of so many damaged records, all different."""
    body, seen = encode(good(frame_type)), set[bytes]()
    for kind, data in (("empty", b""), ("garbage", b"garbage"), ("bomb", bomb(body))):
        seen.add(data)
        yield kind, data
    makers = {"truncated": truncated, "fingerprint": fingerprint, "flipped": flipped, "lengths": lengths,
              "columns": columns, "tail": tail}  # fmt: skip
    while len(seen) < count:
        kind = rng.choice(list(makers))
        data = makers[kind](body, rng)
        if data not in seen and data != body:
            seen.add(data)
            yield kind, data


def truncated(body: bytes, rng: random.Random) -> bytes:
    """Cut anywhere."""
    return body[: rng.randrange(1, len(body))]


def tail(body: bytes, rng: random.Random) -> bytes:
    """More bytes than the record has."""
    return body + rng.randbytes(rng.randrange(1, 100))


def fingerprint(body: bytes, rng: random.Random) -> bytes:
    """A schema that nobody has."""
    return MARKER + rng.randbytes(8) + body[HEADER_BYTES:]


def flipped(body: bytes, rng: random.Random) -> bytes:
    """One to eight bits, anywhere."""
    data = bytearray(body)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        bit = rng.randrange(8 * len(data))
        data[bit // 8] ^= 1 << bit % 8
    return bytes(data)


def lengths(body: bytes, rng: random.Random) -> bytes:
    """An absurd length put in somewhere behind the header."""
    at = rng.randrange(HEADER_BYTES, len(body))
    return body[:at] + long(rng.choice((2**31, 2**40, 2**62, -1, -(2**62), 2**63 - 1))) + body[at + 1 :]


def columns(body: bytes, rng: random.Random) -> bytes:
    """One column longer or shorter than the others."""
    version = version_of(body)
    plain: Any = fastavro.schemaless_reader(io.BytesIO(body[HEADER_BYTES:]), version.parsed, None)
    name = rng.choice([name for name in plain if isinstance(plain[name], bytes)])
    plain[name] = plain[name][: -rng.randrange(1, 9)] if rng.random() < 0.5 else plain[name] + rng.randbytes(8)
    plain["texts"] = [{"row": 1, "text": rng.randbytes(4).hex()}]
    out = io.BytesIO()
    fastavro.schemaless_writer(out, version.parsed, plain)
    return body[:HEADER_BYTES] + out.getvalue()


def bomb(body: bytes) -> bytes:
    """A few megabytes that claim to be millions of texts."""
    head = body[:HEADER_BYTES] + b"\x02A\x02s\x00\x00\x00\x01\x00" + b"\x00" * 9
    return head + long(BOMB_BYTES // 2) + b"\x00" * BOMB_BYTES


def long(value: int) -> bytes:
    """An Avro long."""
    out = io.BytesIO()
    fastavro.schemaless_writer(out, "long", value)
    return out.getvalue()
