"""Row 17: JSON that nobody should send, by MQTT, between readings that must not notice."""

from tests.faults.bad_data import device, little_memory, refused_payloads, wait_stored
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import System

TITLE = "JSON: depth 100,000, 50 MB, repeated keys, bad UTF-8, wrong types"
ASSET = "BAD17"
GOOD = 5
BACK_S = 60.0
MIB = 1024 * 1024


def run(rig: Rig) -> None:
    """Every bad payload is among the rejected with its reason; every good one around it is stored."""
    under_load(rig, strike)


def strike(rig: Rig, system: System) -> None:
    """Good and bad payloads of one device, interleaved, while the load flows."""
    bad = payloads(rig)
    with device(system, ASSET) as sensor:
        for i in range(GOOD):
            sensor.publish("level", {"value": float(i), "unit": "%", "timestamp": 1_761_474_615 + i})
        wait_stored(rig, system, ASSET, "level", GOOD)
        with little_memory(rig, system):
            for i, payload in enumerate(bad, start=GOOD):
                sensor.publish("level", payload)
                sensor.publish("level", {"value": float(i), "unit": "%", "timestamp": 1_761_474_615 + i})
            wait_stored(rig, system, ASSET, "level", GOOD + len(bad))
            system.wait_flowing(BACK_S)
    rig.wait_for(lambda: len(refused_payloads(system, ASSET)) >= len(set(map(_kept, bad))), "all are rejected", 60)
    refused = refused_payloads(system, ASSET)
    for payload in bad:
        reason = refused.get(_kept(payload))
        rig.require(reason, f"{payload[:40]!r}… ({len(payload)} bytes) is rejected with a reason")
        rig.struck(bool(reason))
    rig.note("reasons", sorted({reason[:70] for reason in refused.values()}))
    logged = system.metric("mqtt-1", "twin_rejected_total")
    rig.require(logged is not None and logged >= len(bad), f"the connector's metric counts them: {logged}")


def payloads(rig: Rig) -> list[bytes]:
    """Payloads that cannot be used."""
    rng = rig.rng
    found = [
        b"[" * 100_000, b'{"a":' * 100_000, b'{"value":' * 100_000 + b"1" + b"}" * 100_000,
        b'{"value": "' + b"x" * (50 * 1000 * 1000) + b'"}',
        b"[" + b"{}," * (MIB // 4) + b"{}]", b"[" + b"0," * (MIB // 3) + b"0]",
        b'{"value": 1, "value": 2}', b'{"value": 1, "val\\u0075e": 2}',
        b"{" + b",".join(b'"%x":0' % i for i in range(40_000)) + b',"9c3f":0}',
        b"\xff\xfe\x00", b'{"value": "\xc3"}', b'{"value": 1, "unit": "\xed\xa0\x80"}', b'{"value": "\\ud800"}',
        b'{"value": [1]}', b'{"value": {"x": 1}}', b'{"value": 1, "unit": 5}', b'{"value": 1, "timestamp": true}',
        b'{"value": 1, "timestamp": "yesterday"}', b'{"value": 1, "timestamp": [1]}', b"{}", b"[]", b"[1, 2]", b"",
        b'{"value": 1', b"Bad", b"12,5", b"{'value': 1}", b'{"value": 0x10}', b'{"value": 1,}', b"\x00" * 100,
    ]  # fmt: skip
    for _ in range(rig.times(full=200, short=20)):
        found.append(b"\x80" + rng.randbytes(rng.randrange(1, 2000)))  # no UTF-8 begins so
    rng.shuffle(found)
    return found


def _kept(payload: bytes) -> bytes:
    """What is kept of a payload: of one beyond the limit, its beginning."""
    return payload[: 64 * 1024] if len(payload) > MIB else payload
