"""The plant against real peers: a mosquitto broker and an OPC UA subscription over TCP, compared to the bit."""

import asyncio
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asyncua import Client, ua
from asyncua.crypto.security_policies import SecurityPolicyBasic256Sha256

from plant.datasets import DIRECTORY
from plant.faults import Fault
from plant.journal import read
from plant.load import run_load
from plant.mqtt_devices import iso_time
from plant.outlets import OutletError
from plant.play import play
from plant.pump import Tick, _stopped_by_signals
from plant.run import run_plant
from plant.samples import node_id, topic
from services.mosquitto import Mosquitto
from tests.plant.plant_readers import EPOCH, MqttReader, OpcuaReader

pytestmark = pytest.mark.services
TE00 = DIRECTORY / "tennessee_eastman" / "d00_te.dat"
NAB = DIRECTORY / "nab" / "machine_temperature_system_failure.csv"


@pytest.fixture
def url() -> str:
    """An endpoint on a free port."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return f"opc.tcp://127.0.0.1:{s.getsockname()[1]}"


def bits(value: float | None) -> bytes | None:
    """The bits of a number."""
    return None if value is None else struct.pack("<d", value)


def journaled(path: Path, protocol: str) -> list[dict[str, Any]]:
    """Lines of readings by one protocol."""
    return [line for line in read(path) if "event" not in line and line["protocol"] == protocol]


def time_ns(text: str) -> int:
    """ISO 8601 with up to nine digits, as whole nanoseconds."""
    whole, fraction = text.removesuffix("Z").split(".")
    seconds = (datetime.fromisoformat(f"{whole}+00:00") - EPOCH) // timedelta(seconds=1)
    return seconds * 10**9 + int(fraction.ljust(9, "0"))


def assert_mqtt_complete(journal: Path, reader: MqttReader) -> None:
    """What came is what the journal says, per topic in its order."""
    lines = journaled(journal, "mqtt")
    reader.wait_for(len(lines))
    for name in {topic(line["asset"], line["tag"]) for line in lines}:
        sent = [line for line in lines if topic(line["asset"], line["tag"]) == name and not line.get("garbage")]
        came = [message for at, message in reader.payloads() if at == name]
        assert [(m["value"], m["unit"], time_ns(m["timestamp"])) for m in came] == [
            (line["text"] or float.fromhex(line["value"]), line["unit"], line["source_time_ns"]) for line in sent
        ]
    garbage = Counter(bytes.fromhex(line["bytes"]) for line in lines if line.get("garbage"))
    assert sum(garbage.values()) + len(reader.payloads()) == len(reader.messages) == len(lines)
    assert not garbage - Counter(body for _, body in reader.messages)


def assert_opcua_complete(journal: Path, reader: OpcuaReader) -> None:
    """What came is what the journal says, per node in its order, without a hole in the publish sequence."""
    lines = journaled(journal, "opcua")
    by_node: dict[str, list[Any]] = {}
    for line in lines:
        value = None if line["value"] is None else float.fromhex(line["value"])
        entry = (line["source_time_ns"], bits(value), line.get("status", 0))
        by_node.setdefault(node_id(line["asset"], line["tag"]), []).append(entry)
    came: dict[str, list[Any]] = {}
    for c in reader.changes:
        came.setdefault(c.node, []).append((c.source_time_ns, bits(c.value), c.status))
    assert came == by_node
    assert reader.sequence == list(range(1, len(reader.sequence) + 1))


def test_three_seconds_arrive_complete(mqtt_broker: Mosquitto, url: str, tmp_path: Path) -> None:
    """Three reactors at 10 Hz with every kind of fault: each reading arrives once, to the bit, in order."""
    journal, ticks = tmp_path / "journal.jsonl", list[Tick]()
    with MqttReader(mqtt_broker.host, mqtt_broker.port) as mqtt, OpcuaReader(url) as opcua:
        summary = run_plant(
            mqtt_host=mqtt_broker.host,
            mqtt_port=mqtt_broker.port,
            opcua_url=url,
            seconds=3,
            journal=journal,
            on_sample=ticks.append,
        )
        assert_mqtt_complete(journal, mqtt)
    assert_opcua_complete(journal, opcua)
    assert (summary.subscribed, summary.drained, summary.overruns, summary.unheard) == (True, True, 0, 0)
    lines = [line for line in read(journal) if "event" not in line]
    counts = Counter(line["protocol"] for line in lines if not line["repeat"] and not line.get("garbage"))
    assert dict(counts) == summary.sent
    assert summary.confirmed == {"mqtt": len(journaled(journal, "mqtt")), "opcua": summary.sent["opcua"]}
    assert summary.by_fault == dict(
        Counter(x["fault"] for x in lines if x["fault"] and not x["repeat"] and not x.get("garbage"))
    )
    silent = sum(e["readings"] for e in read(journal) if e.get("event") == "dropout")
    assert sum(summary.sent.values()) + silent == 30 * 24 + 15  # 15 nodes start with a reading of their own
    assert len(ticks) == 30
    assert set(ticks[-1].truths) == {"R101", "R102", "R103"}
    assert opcua.units["Reactor.R101.FlowRate.SV"] == "L/min"
    truths = [e for e in read(journal) if e.get("event") == "truth"]
    assert len(truths) == 9
    assert all(e["conversion"] > 0 for e in truths)


def offered(url: str, known: set[ua.MessageSecurityMode]) -> set[ua.MessageSecurityMode]:
    """Security modes of a server's endpoints; asked only where they are not known yet."""
    if known:
        return known
    return {endpoint.SecurityMode for endpoint in asyncio.run(Client(url).connect_and_get_server_endpoints())}


def test_equal_values_are_reported_too(mqtt_broker: Mosquitto, url: str) -> None:
    """A stuck value is a data change each time it is sampled, because its source time is another.

    Without a certificate directory the only endpoint offers no security, so nobody takes it for a secure one.
    """
    modes = set[ua.MessageSecurityMode]()
    stuck = Fault(kind="stuck", asset="R101", tag="level", start_s=0.0, duration_s=9.0)
    with OpcuaReader(url) as opcua:
        run_plant(
            mqtt_host=mqtt_broker.host,
            mqtt_port=mqtt_broker.port,
            opcua_url=url,
            seconds=1.0,
            faults=[stuck],
            reactors=1,
            on_sample=lambda _: modes.update(offered(url, modes)),
        )
    level = [c for c in opcua.changes if c.node == "Reactor.R101.Level.PV"]
    assert len(level) == 11
    assert len({c.value for c in level[1:]}) == 1
    assert len({c.source_time_ns for c in level}) == 11
    assert modes == {ua.MessageSecurityMode.None_}


def test_sigterm_ends_a_run_in_its_regular_way(mqtt_broker: Mosquitto, url: str, tmp_path: Path) -> None:
    """A run without end stops within seconds, and says what it sent; its processes are gone."""
    code = (
        "import sys, json\nfrom pathlib import Path\nfrom plant.run import run_plant\n"
        "if __name__ == '__main__':\n"
        f"    s = run_plant(mqtt_host={mqtt_broker.host!r}, mqtt_port={mqtt_broker.port}, opcua_url={url!r},\n"
        f"        journal=Path({str(tmp_path / 'journal.jsonl')!r}), subscribers_s=0.0, reactors=1)\n"
        "    print(json.dumps(s.as_dict()))\n"
    )
    script = tmp_path / "run_it.py"
    script.write_text(code)
    root = str(Path(__file__).parents[2])
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    deadline = time.monotonic() + 30
    journal = tmp_path / "journal.jsonl"
    while time.monotonic() < deadline and (not journal.exists() or journal.stat().st_size < 20_000):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    printed, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert '"sent": {' in printed
    sent = Counter(line["protocol"] for line in read(journal) if "event" not in line)
    assert sent["mqtt"] > 20
    assert sent["opcua"] > 20
    with socket.socket() as s:
        assert s.connect_ex(("127.0.0.1", int(url.rsplit(":", 1)[1]))) != 0


def test_a_broker_that_is_not_there_is_an_error(url: str) -> None:
    """The run ends with a sentence instead of a traceback from another process."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    with pytest.raises(OutletError, match="ConnectionRefusedError"):
        run_plant(mqtt_host="127.0.0.1", mqtt_port=port, opcua_url=url, seconds=1.0, subscribers_s=0.0)


def test_devices_send_again_what_a_broken_connection_left_unconfirmed(tmp_path: Path) -> None:
    """The broker is killed and comes back: the run ends with all messages confirmed by it."""
    broker = Mosquitto(tmp_path / "mosquitto", tmp_path / "mosquitto.log")
    journal = tmp_path / "journal.jsonl"
    broker.start()
    broker.wait_ready()

    def crash() -> None:
        while not journal.exists() or journal.stat().st_size < 10_000:
            time.sleep(0.05)
        broker.kill()
        time.sleep(0.3)
        broker.start()

    try:
        crashing = threading.Thread(target=crash)
        crashing.start()
        summary = play([NAB], speed=9000.0, mqtt_host=broker.host, mqtt_port=broker.port, journal=journal, rows=120)
        crashing.join()
    finally:
        broker.stop()
    assert summary.confirmed["mqtt"] == len(journaled(journal, "mqtt")) == 120


def test_a_data_set_played_by_mqtt_arrives_complete(mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """NAB flat out: the first 3,000 rows, in the order of the file, with the bits of the file."""
    with MqttReader(mqtt_broker.host, mqtt_broker.port) as mqtt:
        summary = play(
            [NAB],
            mqtt_host=mqtt_broker.host,
            mqtt_port=mqtt_broker.port,
            journal=tmp_path / "journal.jsonl",
            rows=3000,
        )
        assert_mqtt_complete(tmp_path / "journal.jsonl", mqtt)
    assert (summary.sent, summary.unheard) == ({"mqtt": 3000}, 0)


@pytest.mark.parametrize(("queue_size", "rows"), [(1, 20), (128, 1500)])
def test_a_data_set_played_flat_out_never_overruns_a_queue(
    queue_size: int, rows: int, url: str, tmp_path: Path
) -> None:
    """Whatever size the subscriber's queues have: no value is lost, no queue quite full, no hole in the sequence."""
    journal = tmp_path / "journal.jsonl"
    with OpcuaReader(url, queue_size=queue_size, publishing_ms=50.0) as opcua:
        summary = play([NAB], protocol="opcua", opcua_url=url, journal=journal, rows=rows)
    assert_opcua_complete(journal, opcua)
    assert (summary.sent, summary.overruns, summary.drained) == ({"opcua": rows}, 0, True)
    assert max(opcua.sizes) == max(1, queue_size - 1)


def test_all_columns_of_a_data_set_are_nodes(url: str, tmp_path: Path) -> None:
    """Tennessee Eastman by OPC UA at 3,600 times real speed: 52 nodes with their units, ten rows of each."""
    journal = tmp_path / "journal.jsonl"
    with OpcuaReader(url) as opcua:
        summary = play([TE00], protocol="opcua", speed=3600.0, opcua_url=url, journal=journal, rows=10)
    assert_opcua_complete(journal, opcua)
    assert summary.sent == {"opcua": 520}
    assert len(opcua.units) == 52
    assert opcua.units["Reactor.TE00.Xmeas_09.PV"] == "degC"


def test_playing_at_a_speed_takes_its_time(mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """Two data sets at once: 11 rows of 180 s at 3,600 times real speed take half a second, with the file's times."""
    journal = tmp_path / "journal.jsonl"
    summary = play(
        [TE00, TE00.with_name("d04_te.dat")],
        speed=3600.0,
        mqtt_host=mqtt_broker.host,
        mqtt_port=mqtt_broker.port,
        journal=journal,
        rows=11,
    )
    lines = journaled(journal, "mqtt")
    assert summary.sent == {"mqtt": 2 * 11 * 52}
    assert 0.49 < (lines[-1]["sent_ns"] - lines[0]["sent_ns"]) / 1e9 < 1.0
    assert {line["source_time_ns"] % (180 * 10**9) for line in lines} == {0}
    assert [line["asset"] for line in lines[::52]] == ["TE00", "TE04"] * 11


def test_two_data_sets_of_one_name_are_refused() -> None:
    """As are a name for two files."""
    with pytest.raises(ValueError, match="own"):
        play([TE00, TE00])
    with pytest.raises(ValueError, match="one file only"):
        play([TE00, NAB], asset="X")


def test_load_is_what_was_asked_for(mqtt_broker: Mosquitto, url: str, tmp_path: Path) -> None:
    """4 assets × 10 tags at 5 Hz for a second, a third by OPC UA, spread over the interval."""
    journal = tmp_path / "journal.jsonl"
    with MqttReader(mqtt_broker.host, mqtt_broker.port) as mqtt, OpcuaReader(url) as opcua:
        summary = run_load(
            mqtt_host=mqtt_broker.host,
            mqtt_port=mqtt_broker.port,
            opcua_url=url,
            assets=4,
            tags=10,
            rate_hz=5.0,
            opcua_share=0.3,
            seconds=1.0,
            journal=journal,
        )
        assert_mqtt_complete(journal, mqtt)
    assert_opcua_complete(journal, opcua)
    assert summary.sent == {"mqtt": 4 * 7 * 5, "opcua": 4 * 3 * 6}
    assert len({line["source_time_ns"] for line in journaled(journal, "mqtt")}) == 20


async def secure(client: Client) -> None:
    """Basic256Sha256, Sign and Encrypt, with a certificate made for this."""
    from asyncua.crypto.cert_gen import setup_self_signed_certificate
    from cryptography.x509.oid import ExtendedKeyUsageOID

    directory = Path(os.environ["PLANT_TEST_CERTIFICATES"])
    key, certificate = directory / "key.pem", directory / "certificate.der"
    client.application_uri = "urn:process-twin:test"
    usage = [ExtendedKeyUsageOID.CLIENT_AUTH]
    await setup_self_signed_certificate(key, certificate, client.application_uri, "localhost", usage, {})
    await client.set_security(
        SecurityPolicyBasic256Sha256, certificate, key, mode=ua.MessageSecurityMode.SignAndEncrypt
    )


def test_the_server_can_encrypt(
    mqtt_broker: Mosquitto, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a certificate directory it offers Basic256Sha256 Sign&Encrypt only, by a certificate that stays the same."""
    monkeypatch.setenv("PLANT_TEST_CERTIFICATES", str(tmp_path))
    certificates, modes = [], set[ua.MessageSecurityMode]()
    for _ in range(2):
        with OpcuaReader(url, secure=secure) as opcua:
            run_plant(
                mqtt_host=mqtt_broker.host,
                mqtt_port=mqtt_broker.port,
                opcua_url=url,
                seconds=0.3,
                reactors=1,
                certificate_dir=tmp_path / "plant",
                on_sample=lambda _: modes.update(offered(url, modes)),
            )
        assert len(opcua.changes) == 5 * 4
        certificates.append((tmp_path / "plant" / "plant.der").read_bytes())
    assert certificates[0] == certificates[1]
    assert modes == {ua.MessageSecurityMode.SignAndEncrypt}
    assert (tmp_path / "plant" / "plant_key.pem").stat().st_mode & 0o077 == 0


def test_iso_times_have_as_many_digits_as_they_need() -> None:
    """Microseconds with six, nanoseconds with nine; before 1970 too."""
    assert iso_time(1_761_474_615_123_456_000) == "2025-10-26T10:30:15.123456Z"
    assert iso_time(1_761_474_615_123_456_789) == "2025-10-26T10:30:15.123456789Z"
    assert iso_time(-1_000) == "1969-12-31T23:59:59.999999Z"


def test_load_can_come_in_bursts(mqtt_broker: Mosquitto, tmp_path: Path) -> None:
    """Not spread, by MQTT only: both assets send all their tags at the same two times."""
    journal = tmp_path / "journal.jsonl"
    summary = run_load(
        mqtt_host=mqtt_broker.host,
        mqtt_port=mqtt_broker.port,
        opcua_url="",
        assets=2,
        tags=5,
        rate_hz=5.0,
        opcua_share=0.0,
        spread=False,
        seconds=0.4,
        journal=journal,
    )
    assert summary.sent == summary.confirmed == {"mqtt": 20}
    times = Counter(line["source_time_ns"] for line in journaled(journal, "mqtt"))
    assert list(times.values()) == [10, 10]


def test_a_signal_stops_the_plant_wherever_it_strikes() -> None:
    """SIGTERM while the event to stop by is locked by the thread that it interrupts stops the plant all the same."""
    stop = threading.Event()
    with _stopped_by_signals(stop):
        with stop._cond:  # type: ignore[attr-defined]  # as inside of `stop.wait`
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(0.1)  # the handler runs here
        assert stop.wait(10)
