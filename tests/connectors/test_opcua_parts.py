"""The OPC UA connector's pure parts: names, quality, sequence numbers, what is remembered across kill -9."""

import dataclasses
import math
from pathlib import Path

import pytest
from asyncua import ua

from connectors.opcua_binary import Value
from connectors.opcua_memory import Memory, Resumable
from connectors.opcua_subscription import after, missing
from connectors.opcua_values import Item, overflowed, queue_size, reading, snake_case, tag_name
from schemas.quality import Mark

ITEM = Item(
    node="nsu=u;s=Reactor.R1.Temperature.PV", node_id=ua.NodeId("Reactor.R1.Temperature.PV", 2), asset="R1",
    tag="temperature", unit="degC", cyclic=False, interval_s=1.0, queue_size=10, deadband=None, historised=False,
)  # fmt: skip


@pytest.mark.parametrize(
    ("name", "tag"),
    [("Temperature", "temperature"), ("FlowRate", "flow_rate"), ("pH", "ph"), ("PH", "ph"), ("TIC101", "tic101"),
     ("JacketTemperature2", "jacket_temperature2"), ("HTTPCode", "http_code"), ("Flow Rate", "flow_rate")],
)  # fmt: skip
def test_names_become_snake_case(name: str, tag: str) -> None:
    """CamelCase of a node becomes snake_case of a tag."""
    assert snake_case(name) == tag


def test_roles_become_tags() -> None:
    """PV is the tag itself, SV its set point, another role follows alike; no role is PV."""
    assert [tag_name("FlowRate", role) for role in ("PV", "SV", "MV", None)] == [
        "flow_rate", "flow_rate.sv", "flow_rate.mv", "flow_rate",
    ]  # fmt: skip


def test_a_reading_keeps_status_and_times() -> None:
    """Status, source and server time pass unchanged, the unit is the item's."""
    found = reading(ITEM, Value(0, 1.5, None, 0x40920000, 1001, 1002), 1003)
    assert (found.value, found.status, found.unit, found.mark) == (1.5, 0x40920000, "degC", 0)
    assert (found.source_time_ns, found.server_time_ns, found.arrival_time_ns) == (1001, 1002, 1003)


def test_a_missing_source_time_is_the_servers_then_ours() -> None:
    """Without a source time the server's counts; without both the arrival, and the reading is marked so."""
    server = reading(ITEM, Value(0, 1.5, None, 0, None, 1002), 1003)
    arrival = reading(ITEM, Value(0, 1.5, None, 0, None, None), 1003)
    assert (server.source_time_ns, server.mark) == (1002, 0)
    assert (arrival.source_time_ns, arrival.server_time_ns, arrival.mark) == (1003, 0, Mark.ARRIVAL_TIME_USED)


def test_no_number_is_nan_with_its_text() -> None:
    """A text stays as the reason; a bad status without a value gives the status's name; a plain NaN has no text."""
    text = reading(ITEM, Value(0, math.nan, "Inp OutRange", 0, 1, 1), 2)
    bad = reading(ITEM, Value(0, math.nan, "null", 0x80050000, 1, 1), 2)
    unknown = reading(ITEM, Value(0, math.nan, "null", 0x8FFF0000, 1, 1), 2)
    nan = reading(ITEM, Value(0, math.nan, None, 0, 1, 1), 2)
    assert [(r.text, r.mark) for r in (text, bad, unknown, nan)] == [
        ("Inp OutRange", Mark.TEXT), ("BadCommunicationError", Mark.TEXT), ("0x8FFF0000", Mark.TEXT), (None, 0),
    ]  # fmt: skip
    assert math.isnan(text.value)


def test_overflow_needs_both_bits() -> None:
    """Only the overflow bit together with the info type counts: 0x80 alone means something else."""
    assert overflowed(0x480) and overflowed(0x40000480)
    assert not overflowed(0x80) and not overflowed(0x400)


def test_queue_holds_twice_a_publishing_interval_and_a_minute() -> None:
    """Queues hold at least twice what one publishing interval brings, at least 10, a minute where 128 suffice."""
    assert [queue_size(0.1, s) for s in (0.01, 0.1, 1, 5, 60)] == [128, 128, 60, 12, 10]
    assert queue_size(10, 0.2) == 128


def test_sequence_numbers() -> None:
    """Missing numbers are found, also across the wrap from 2³²−1 to 1; an old number is told as such."""
    assert missing(4, 5) == []
    assert missing(4, 8) == [5, 6, 7]
    assert missing(4, 4) is None and missing(4, 2) is None
    assert after(2**32 - 1) == 1
    assert missing(2**32 - 2, 2) == [2**32 - 1, 1]
    assert missing(0, 1) == []


def items(*tags: str) -> list[Item]:
    """Items of one asset."""
    return [dataclasses.replace(ITEM, tag=tag, node=f"s={tag}") for tag in tags]


SESSION = Resumable(
    url="u", token="i=5", nonce="00", subscription=7, item_ids=(1, 2), queue_sizes=(10, 1), publishing_ms=100.0,
    keepalive_count=50,
)  # fmt: skip


def test_times_and_session_survive_the_process(tmp_path: Path) -> None:
    """A new process finds the session to take over, the last sequence number and every tag's time, without a close."""
    before = Memory(tmp_path, "ua")
    before.bind(items("a", "b"))
    before.keep(SESSION)
    before.sequence = 41
    before.remember(1, 1100)
    before.remember(1, 1000)
    now = Memory(tmp_path, "ua")
    assert now.resumable == SESSION and now.same_items(items("a", "b"))
    now.bind(items("a", "b"))
    assert (now.sequence, now.last_ns(0), now.last_ns(1)) == (41, None, 1000)
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.glob("*.json"))


def test_other_items_keep_their_times_but_not_the_session(tmp_path: Path) -> None:
    """When the list of tags changes, times follow their tags and the old subscription is not taken over."""
    before = Memory(tmp_path, "ua")
    before.bind(items("a", "b"))
    before.remember(1, 1000)
    before.bind(items("b", "c", "a"))
    assert [before.last_ns(i) for i in range(3)] == [1000, None, None]
    assert before.resumable is None and before.sequence == 0
    assert len(list(tmp_path.glob("*.times"))) == 2


@pytest.mark.parametrize("damage", ["deleted", "cut", "flipped"])
@pytest.mark.parametrize("name", ["ua.opcua.json", "ua.opcua.copy.json", "ua.opcua-1.times", "ua.opcua-1.copy.times"])
def test_damage_to_one_file_of_the_memory_loses_nothing(tmp_path: Path, name: str, damage: str) -> None:
    """Whichever file is deleted, cut, or has a bit turned over, the next process remembers the same."""
    before = Memory(tmp_path, "ua")
    before.bind(items("a", "b"))
    before.keep(SESSION)
    before.sequence = 41
    before.remember(1, 1000)
    path = tmp_path / name
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.unlink()
    if damage != "deleted":
        path.write_bytes(data if damage == "flipped" else data[:-2])
    for _ in range(2):
        now = Memory(tmp_path, "ua")
        assert now.resumable == SESSION and now.same_items(items("a", "b"))
        assert (now.sequence, now.last_ns(0), now.last_ns(1)) == (41, None, 1000)


def test_damage_under_a_running_process_is_seen(tmp_path: Path) -> None:
    """A bit turned over in a file that is in use does not become a time that nobody was at."""
    memory = Memory(tmp_path, "ua")
    memory.bind(items("a"))
    memory.remember(0, 1000)
    with (tmp_path / "ua.opcua-1.times").open("r+b") as file:
        file.seek(16 + 6)
        file.write(b"\x01")
    assert memory.last_ns(0) == 1000
    memory.remember(0, 2000)
    assert Memory(tmp_path, "ua").last_ns(0) == 2000


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"format": 9}', b"\xff\xfe"])
def test_a_damaged_memory_is_none(tmp_path: Path, damage: bytes) -> None:
    """A state file that cannot be read counts as nothing remembered, and the connector goes on."""
    (tmp_path / "ua.opcua.json").write_bytes(damage)
    memory = Memory(tmp_path, "ua")
    memory.bind(items("a"))
    memory.remember(0, 5)
    assert memory.last_ns(0) == 5
