"""Reading a changelog back from a real Kafka."""

import os
import struct
import time
from dataclasses import replace

import numpy as np
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.changelog import POSITION, Row, UnreadableRow, pack, recover, unpack
from runtime.config import Kafka
from schemas.codec import DecodeError
from schemas.states import StageState
from tests.agents.counting import COUNTING

pytestmark = pytest.mark.services


def _row(asset: str, position: int) -> bytes:
    columns = {"chain": np.array([position, -position], np.int64)}
    return pack(Row(position, replace(COUNTING.initial(asset), columns=columns)))


def _topic(kafka: str, name: str, records: list[tuple[int, bytes | None, bytes | None]], partitions: int = 3) -> None:
    """A compacted topic with (partition, key, value) written in order."""
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.create_topics([NewTopic(name, partitions, 1, config={"cleanup.policy": "compact"})])[name].result()
    producer = Producer({"bootstrap.servers": kafka, "enable.idempotence": True})
    for n, (partition, key, value) in enumerate(records):
        producer.produce(name, value, key, partition)
        if n % 100 == 99:
            producer.flush(20)  # small batches, as checkpoints write them
    assert producer.flush(20) == 0


def test_the_row_that_has_applied_most_is_the_state(kafka: str) -> None:
    """Of several rows of a key the greatest position wins, not the last one; who was written over is named."""
    rows = [(0, b"R1", _row("R1", 5)), (0, b"R1", _row("R1", 9)), (0, b"R1", _row("R1", 7))]
    rows += [(2, b"R2", _row("R2", 1)), (2, b"R3", _row("R3", 8)), (2, b"R3", _row("R3", 3)), (2, b"R3", _row("R3", 9))]
    _topic(kafka, "changelog-newer", [*rows])
    settings = Kafka(bootstrap=kafka)
    found = recover(settings, "changelog-newer", [0, 1, 2], lambda read: None)
    assert {key: unpack(row).position for key, row in found.rows.items()} == {b"R1": 9, b"R2": 1, b"R3": 9}
    assert found.partition_of == {b"R1": 0, b"R2": 2, b"R3": 2}
    assert (found.overtaken, found.read) == (frozenset({b"R1"}), 7)
    assert recover(settings, "changelog-newer", [1], lambda read: None).rows == {}


def test_a_long_changelog_is_read_without_standing_still(kafka: str) -> None:
    """120 MB of rows, many times what the client may hold at once, take a second or two and not one for every 8 MB."""
    rows = [(n % 4, b"R%d" % (n % 8), POSITION.pack(n) + os.urandom(30_000)) for n in range(4000)]
    _topic(kafka, "changelog-long", [*rows], partitions=4)
    began_s = time.monotonic()
    found = recover(Kafka(bootstrap=kafka), "changelog-long", range(4), lambda read: None)
    assert time.monotonic() - began_s < 5.0
    assert (found.read, len(found.rows)) == (4000, 8)


@pytest.mark.parametrize(("name", "value"), [("short", b"abc"), ("deleted", None)])
def test_a_row_that_is_none_is_an_error(kafka: str, name: str, value: bytes | None) -> None:
    """A row too short for a position, or a deleted one, is never passed over in silence."""
    _topic(kafka, f"changelog-{name}", [(0, b"R1", _row("R1", 1)), (1, b"R2", value)])
    with pytest.raises(UnreadableRow, match=f"changelog-{name}/1 offset 0"):
        recover(Kafka(bootstrap=kafka), f"changelog-{name}", [0, 1, 2], lambda read: None)


def test_rows_survive_to_the_bit() -> None:
    """Packing and unpacking gives the same state; damage is an error that says so."""
    data = _row("R1", 2**40)
    row = unpack(data)
    assert row.position == 2**40 and isinstance(row.state, StageState)
    assert pack(row) == data
    assert struct.unpack_from("<q", data)[0] == 2**40
    for damaged in (data[:-1], data + b"\0", data[:8] + b"\0" + data[9:], b""):
        with pytest.raises(DecodeError):
            unpack(damaged)
