"""A mirror that is killed and begun again, without Kafka."""

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from replay.mirror import Origin, Present, made_by_a_stage
from runtime.partitions import home_partition
from schemas.codec import encode
from schemas.records import Alert, Rejected
from schemas.topics import ALERTS, RAW, REJECTED

Log = list[list[tuple[Origin, bytes]]]
ASSETS = tuple(f"R{n}".encode() for n in range(7))


def mirrored(source: Sequence[Sequence[bytes]], order: Sequence[int], target: Log) -> None:
    """One run from the beginning: partitions are read in this order, what is there already is left out."""
    present = Present()
    for partition, records in enumerate(target):
        for origin, _ in records:
            present.add(origin, partition)
    at = [0] * len(source)
    for choice in (*order, *(p for p, keys in enumerate(source) for _ in keys)):
        p = choice % len(source)
        if at[p] == len(source[p]):
            continue
        origin, key = Origin(p, at[p]), source[p][at[p]]
        at[p] += 1
        home = home_partition(key, len(target))
        if not present.has(origin, home):
            target[home].append((origin, key))


@given(
    keys=st.lists(st.sampled_from(ASSETS), max_size=60),
    partitions=st.tuples(st.integers(1, 5), st.integers(1, 7)),
    orders=st.lists(st.lists(st.integers(0, 4), max_size=80), min_size=2, max_size=4),
    data=st.data(),
)
def test_killed_anywhere_it_goes_on_exactly_once_in_order(
    keys: list[bytes], partitions: tuple[int, int], orders: list[list[int]], data: st.DataObject
) -> None:
    """However often a run dies, with any part of what it sent in Kafka (per partition all up to some record), the next
    one brings every record once, and those of an asset in their order."""
    source: list[list[bytes]] = [[] for _ in range(partitions[0])]
    for key in keys:
        source[home_partition(key, partitions[0])].append(key)
    target: Log = [[] for _ in range(partitions[1])]
    for order in orders[:-1]:
        there = [len(records) for records in target]
        mirrored(source, order, target)
        for records, least in zip(target, there, strict=True):
            del records[data.draw(st.integers(least, len(records))) :]
    mirrored(source, orders[-1], target)
    copied = [(origin, key) for records in target for origin, key in records]
    assert sorted(copied) == sorted((Origin(p, n), key) for p, of in enumerate(source) for n, key in enumerate(of))
    for records in target:
        for asset in ASSETS:
            origins = [origin for origin, key in records if key == asset]
            assert origins == sorted(origins)


def test_what_every_generation_writes_itself_is_not_copied() -> None:
    """Readings always are; rejected records and alerts only where a connector, the sink or a person wrote them."""

    def rejected(stage: str) -> bytes:
        return encode(Rejected(stage=stage, reason="bad", asset="R1", topic="t", time_ns=1, payload=b""))

    def alert(kind: str) -> bytes:
        return encode(Alert(asset="R1", kind=kind, severity="warning", time_ns=1, message="m"))

    assert not made_by_a_stage(RAW, b"anything")
    assert [made_by_a_stage(REJECTED, rejected(s)) for s in ("validation", "twin", "connector.mqtt", "sink")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert [made_by_a_stage(ALERTS, alert(k)) for k in ("lost_frames", "gap", "spool")] == [True, True, False]
    assert not made_by_a_stage(REJECTED, b"of a later version")
