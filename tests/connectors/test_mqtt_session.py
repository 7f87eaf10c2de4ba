"""Session and client against a scripted broker: what mosquitto cannot be made to do."""

import queue
import socket
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import __version__ as paho_version

from connectors import mqtt_session
from connectors.mqtt_client import Connection, Message
from connectors.mqtt_memory import Filters
from connectors.mqtt_session import Session
from runtime.config import Mqtt
from runtime.health import Health

CONNACK = bytes([0x20, 3, 0, 0, 0])
SESSION_TAKEN_OVER = bytes([0xE0, 1, 0x8E])


class Peer:
    """The broker's end of one connection."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.stream = sock.makefile("rb")

    def packet(self) -> tuple[int, bytes]:
        """The next packet: first byte and body; (0, b"") at the end."""
        header = self.stream.read(1)
        if not header:
            return 0, b""
        length = shift = 0
        while True:
            byte = self.stream.read(1)[0]
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return header[0], self.stream.read(length)

    def accept(self) -> bytes:
        """Take CONNECT, accept it; gives CONNECT's body."""
        kind, body = self.packet()
        assert kind == 0x10
        self.sock.sendall(CONNACK)
        return body

    def grant(self, reason: int) -> None:
        """Take SUBSCRIBE and answer it with this reason code."""
        kind, body = self.packet()
        assert kind == 0x82
        self.sock.sendall(bytes([0x90, 4]) + body[:2] + bytes([0, reason]))


@contextmanager
def broker(script: Callable[[Peer, int], None]) -> Iterator[int]:
    """A broker that runs `script(peer, number of the connection)` for each connection. Gives its port."""
    server = socket.create_server(("127.0.0.1", 0))
    errors: queue.Queue[BaseException] = queue.Queue()

    def one(sock: socket.socket, number: int) -> None:
        try:
            script(Peer(sock), number)
        except ConnectionError:
            pass  # the session may go at any time
        except (AssertionError, IndexError) as error:
            errors.put(error)
        finally:
            sock.close()

    def serve() -> None:
        number = 0
        while True:
            try:
                sock, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=one, args=(sock, number), daemon=True).start()
            number += 1

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield int(server.getsockname()[1])
    finally:
        server.close()
    if not errors.empty():
        raise errors.get()


def publish(mid: int, topic: bytes, payload: bytes, properties: bytes = b"", header: int = 0x32) -> bytes:
    """A PUBLISH packet (QoS 1 unless the header says otherwise)."""
    body = struct.pack("!H", len(topic)) + topic + (struct.pack("!H", mid) if header & 6 else b"")
    body += variable(len(properties)) + properties + payload
    return bytes([header]) + variable(len(body)) + body


def variable(value: int) -> bytes:
    """MQTT's variable byte integer."""
    out = bytearray()
    while True:
        value, byte = divmod(value, 128)
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


class Driven:
    """A session with its health, polled until something holds."""

    def __init__(self, port: int, state_dir: Path | None = None, **more: Any) -> None:
        self._own = tempfile.TemporaryDirectory()
        filters = Filters(state_dir or Path(self._own.name), "mqtt-1")
        self.health = Health()
        self.lost: list[str] = []
        self.messages: list[Message] = []
        config = Mqtt(host="127.0.0.1", port=port, **more)
        self.session = Session(config, self.health, self.lost.append, False, filters)

    def fetch(self, most: int = 1000) -> list[Message]:
        """The messages that have arrived, so many at most."""
        return [message for _ in range(most) if (message := self.session.next()) is not None]

    def until(self, condition: Callable[[], Any], timeout_s: float = 10.0) -> None:
        """Poll until the condition holds."""
        end_s = time.monotonic() + timeout_s
        while not condition():
            assert time.monotonic() < end_s, self.health.reason("mqtt")
            self.session.poll(0.05)
            self.messages += self.fetch()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mqtt_session, "DELAY_MIN_S", 0.05)


def test_connect_asks_for_what_the_guarantee_needs() -> None:
    """CONNECT names a fixed client, resumes the session, lets it expire late, and limits what is in flight."""
    seen: list[bytes] = []

    def script(peer: Peer, _number: int) -> None:
        seen.append(peer.accept())
        peer.grant(1)
        peer.packet()

    with broker(script) as port:
        driven = Driven(port, id="line-7", receive_maximum=100, session_expiry_s=3600)
        driven.until(lambda: driven.session.up)
        driven.session.close()
    (body,) = seen
    flags = body[7]
    assert body[:7] == b"\0\4MQTT\5"
    assert not flags & 0x02, "clean start"
    assert bytes([0x11]) + struct.pack("!I", 3600) in body
    assert bytes([0x21]) + struct.pack("!H", 100) in body
    assert body.endswith(b"\0\x0btwin-line-7")


@pytest.mark.parametrize("reason", [0x87, 0x00])
def test_a_refused_subscription_is_visible_and_asked_for_again(reason: int) -> None:
    """A filter that the broker does not grant (not authorised, or only QoS 0) is unhealthy, and tried again."""
    go = threading.Event()

    def script(peer: Peer, _number: int) -> None:
        peer.accept()
        peer.grant(reason)
        go.wait(10)
        peer.grant(1)
        peer.packet()

    with broker(script) as port:
        driven = Driven(port)
        driven.until(lambda: driven.health.reason("mqtt"))
        assert "refused to subscribe reactor/+/sensor/# (" in driven.health.reason("mqtt")
        assert not driven.session.up
        go.set()
        driven.until(lambda: driven.session.up)
        assert driven.health.reason("mqtt") == ""
        driven.session.close()


def test_another_client_of_the_same_id_is_named() -> None:
    """When the broker gives the session to another client of this id, the reason is told and the delay grows."""
    times: list[float] = []

    def script(peer: Peer, _number: int) -> None:
        times.append(time.monotonic())
        peer.accept()
        peer.sock.sendall(SESSION_TAKEN_OVER)

    with broker(script) as port:
        driven = Driven(port)
        driven.until(lambda: "Session taken over" in driven.health.reason("mqtt"))
        assert "does another client use the id twin-mqtt-1?" in driven.health.reason("mqtt")
        driven.until(lambda: len(times) >= 5)
        driven.session.close()
    waits = [b - a for a, b in pairwise(times)]
    assert 0.04 < waits[0] < 0.2, waits
    assert waits[3] > 0.35, waits


def test_what_another_client_of_the_same_id_took_is_told_when_the_subscription_stands() -> None:
    """The broker still has the session, so only we can know that messages went to somebody else. It is told once, when
    the subscription is granted: what was published up to then may be lost, too."""
    granted = threading.Event()

    def script(peer: Peer, number: int) -> None:
        peer.packet()
        peer.sock.sendall(bytes([0x20, 3, int(number > 0), 0, 0]))  # the second time with the session
        if number:
            granted.wait(10)
        peer.grant(1)
        if number:
            peer.packet()
        peer.sock.sendall(SESSION_TAKEN_OVER)

    with broker(script) as port:
        driven = Driven(port)
        driven.until(lambda: "Session taken over" in driven.health.reason("mqtt"))
        driven.until(lambda: driven.session._connection is not None)
        for _ in range(5):
            driven.session.poll(0.05)
        assert driven.lost == []
        granted.set()
        driven.until(lambda: driven.session.up)
        assert driven.lost == ["MQTT session taken over"]
        driven.session.close()


def test_what_is_no_longer_configured_is_taken_back(tmp_path: Path) -> None:
    """The broker keeps subscriptions with the session; so a filter that a restarted process has no more is
    unsubscribed, again after a refusal, until the broker grants it; in a new session there is none to take back."""
    asked: list[list[bytes]] = [[] for _ in range(6)]

    def script(peer: Peer, number: int) -> None:
        peer.packet()
        peer.sock.sendall(bytes([0x20, 3, int(number not in (0, 5)), 0, 0]))
        peer.grant(1)
        while (packet := peer.packet())[0] == 0xA2:
            _, body = packet
            asked[number].append(body[5:])
            peer.sock.sendall(bytes([0xB0, 4]) + body[:2] + bytes([0, 0x87 if number == 1 else 0]))

    with broker(script) as port:
        for text in ("a/#", "b/#", "b/#", "b/#", "c/#", "d/#"):
            driven = Driven(port, tmp_path, filters=(text,))
            driven.until(lambda: driven.session.up)  # noqa: B023
            end_s = time.monotonic() + 0.5
            driven.until(lambda: time.monotonic() > end_s)  # noqa: B023
            driven.session.close()
    assert asked == [[], [b"a/#"], [b"a/#"], [], [b"b/#"], []]


def test_the_delay_ends_at_a_minute(tmp_path: Path) -> None:
    """Attempts come after 1, 2, 4, … s, but never less often than once a minute."""
    session = Session(Mqtt(), Health(), lambda _cause: None, False, Filters(tmp_path, "c"))
    session._delay_s = 0.5
    assert [session._next_delay_s() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]


def test_nonsense_from_the_broker_costs_the_connection_not_the_process() -> None:
    """A packet that makes paho or us stumble ends that connection; the next one works, and gets what is sent again."""

    def script(peer: Peer, number: int) -> None:
        peer.accept()
        peer.grant(1)
        if number == 0:
            peer.sock.sendall(bytes([0x32, 3, 0xFF, 0xFF, 0]))
        else:
            peer.sock.sendall(publish(1, b"reactor/R1/sensor/t", b"1"))
        peer.packet()

    with broker(script) as port:
        driven = Driven(port)
        driven.until(lambda: driven.messages)
        assert [m.topic for m in driven.messages] == [b"reactor/R1/sensor/t"]
        driven.session.close()


def test_acknowledgements_go_out_in_order_and_only_for_their_connection() -> None:
    """PUBACKs leave in the order given; a message of a connection that is gone is never acknowledged on the next."""
    acknowledged: list[list[int]] = [[], []]

    def script(peer: Peer, number: int) -> None:
        peer.accept()
        peer.grant(1)
        for mid in (5, 6, 7):
            peer.sock.sendall(publish(mid, b"reactor/R1/sensor/t", b"%d" % number))
        for _ in range(2):
            kind, body = peer.packet()
            assert kind == 0x40
            acknowledged[number].append(struct.unpack("!H", body)[0])

    with broker(script) as port:
        driven = Driven(port)
        driven.until(lambda: len(driven.messages) == 3)
        old = driven.messages[:3]
        driven.session.acknowledge(old[:2])
        driven.until(lambda: len(driven.messages) == 6)
        driven.session.acknowledge([old[2], driven.messages[3], driven.messages[4]])
        driven.until(lambda: len(acknowledged[1]) == 2)
        driven.session.close()
    assert acknowledged == [[5, 6], [5, 6]]


def test_a_broker_that_sends_too_much_is_held_back() -> None:
    """What is not fetched waits here up to a bound and then in the broker; nothing of it is lost or out of order."""
    number, size = 120, 500_000

    def script(peer: Peer, _number: int) -> None:
        peer.accept()
        peer.grant(1)
        for mid in range(1, number + 1):
            peer.sock.sendall(publish(mid, b"reactor/R1/sensor/t", bytes(size)))
            sent.append(mid)
        peer.packet()

    sent: list[int] = []
    with broker(script) as port:
        driven = Driven(port, receive_maximum=7)
        driven.until(lambda: driven.session.up)
        for _ in range(20):
            driven.session.poll(0.05)
        assert len(sent) * size < 30e6  # what is kept here, and in the sockets of both sides
        taken = [message.mid for message in driven.messages]  # that came with the answer to the subscription
        while len(taken) < number:
            driven.session.poll(0.05)
            taken += [message.mid for message in driven.fetch(7)]
        driven.session.close()
    assert taken == list(range(1, number + 1))


PROPERTIES = st.sampled_from(
    [b"", b"\x01\x01", b"\x26\0\1a\0\1b", b"\x26" + struct.pack("!H", 200) + b"k" * 200 + b"\0\0"]
)
MESSAGES = st.lists(
    st.tuples(
        st.integers(1, 65535),
        st.binary(min_size=1, max_size=300),
        st.binary(max_size=300) | st.integers(0, 5000).map(bytes),
        PROPERTIES,
        st.sampled_from([0x32, 0x30, 0x31, 0x33, 0x3A]),
    ),
    max_size=8,
)


def test_the_pinned_paho() -> None:
    """The internals that `Connection` replaces are those of this version; another one needs another look."""
    assert paho_version == "2.2.0"


@given(MESSAGES, st.lists(st.integers(1, 400), max_size=60))
@settings(deadline=None)
def test_messages_are_taken_apart_as_paho_does(messages: list[tuple[Any, ...]], cuts: list[int]) -> None:
    """However the bytes of PUBLISH packets (and others between them) are cut into pieces, all are taken, as sent; only
    what exceeds the limit is cut, and its full size is known."""
    limit = 1024
    connection = Connection(Mqtt(payload_bytes_max=limit))
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    connection._sock = ours
    connection._state = paho._ConnectionState.MQTT_CS_CONNECTED
    stream = b"".join(publish(*m) + bytes([0xD0, 0]) * (m[0] % 2) for m in messages)
    at = 0
    for cut in [*cuts, len(stream)]:
        theirs.sendall(stream[at : at + cut])
        at += cut
        connection.receive()
    while connection.has_unread:
        connection.receive()
    connection.abandon()
    theirs.close()
    got = [(m.mid, m.topic, m.payload, m.size_bytes, m.retained) for m in connection.arrived]
    assert got == [
        (mid if header & 6 else 0, topic, payload[:limit], len(payload), bool(header & 1))
        for mid, topic, payload, _, header in messages
    ]


def test_a_wake_while_another_is_taken_is_not_the_last(tmp_path: Path) -> None:
    """A call of `wake` at the very moment when an earlier one is heard does not silence all later ones."""
    session = Session(Mqtt(), Health(), lambda _cause: None, False, Filters(tmp_path, "c"))
    real = session._wakes

    class Interrupted:
        """The socket, with the other thread's call right before its byte is read."""

        def fileno(self) -> int:
            return real.fileno()

        def recv(self, size: int) -> bytes:
            session.wake()
            return real.recv(size)

    session._wakes = Interrupted()  # type: ignore[assignment]
    session.wake()
    session._wait(None, 0.0)
    session._wakes = real
    session.wake()
    began = time.monotonic()
    session._wait(None, 5.0)
    assert time.monotonic() - began < 1.0
