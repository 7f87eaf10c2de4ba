"""One connection to an MQTT broker: paho's client, driven by our loop, with a cheaper way in and out for messages.

paho does protocol, TLS, keep-alive and subscriptions. Three of its internals are replaced, because per message they
cost more than all the rest of the connector together (`bench/connector_mqtt.py`): bytes are received in large pieces
instead of three to five calls per message, a PUBLISH is taken apart here and without building objects for properties
that nobody reads, and many acknowledgements leave in one packet. A payload beyond the limit is cut while it arrives, so
that 50 MB never stand in memory. Internals change: paho-mqtt is pinned, and the tests compare with what was published.
May not know what a payload means.
"""

import ssl
import struct
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.subscribeoptions import SubscribeOptions

from runtime.config import Mqtt

RECEIVE_BYTES = 64 * 1024
TOPIC_BYTES_MAX = 0xFFFF
HEADER_BYTES_MAX = 5
WAITING_MAX = 1000
WAITING_BYTES_MAX = 8 * 1024 * 1024
_PUBACK = struct.Struct("!BBH")


@dataclass(slots=True, eq=False)
class Message:
    """One PUBLISH as it came. `mid` 0: QoS 0. `size_bytes`: of the payload, of which `payload` may be the beginning.

    What was made of it: `weight` counts in all, `open_parts` what Kafka has not confirmed yet; `since_ns` is the oldest
    time in it, of readings of `asset`.
    """

    connection: "Connection"
    mid: int
    topic: bytes
    payload: bytes
    size_bytes: int
    retained: bool
    arrival_time_ns: int
    weight: int = 1
    open_parts: int = 0
    asset: str = ""
    since_ns: int = 0


class Connection(paho.Client):  # type: ignore[misc]  # mypy is told not to look into paho
    """One attempt to connect, and the connection that came of it. All but `open` is called from one thread."""

    def __init__(self, config: Mqtt) -> None:
        super().__init__(
            paho.CallbackAPIVersion.VERSION2,
            client_id=client_id(config),
            protocol=paho.MQTTv5,
            manual_ack=True,
        )
        self.config = config
        self.arrived: deque[Message] = deque()
        self._arrived_bytes = 0
        self._keep_bytes = config.payload_bytes_max + 2 * TOPIC_BYTES_MAX
        self._unread = b""
        self._read = 0
        self._starved = False

    def open(self) -> None:
        """Connect and send CONNECT; blocks for some seconds at most. Raises OSError, ssl.SSLError, ValueError."""
        config = self.config
        if config.username is not None:
            self.username_pw_set(config.username, config.password)
        if config.tls:
            self.tls_set_context(_tls(config))
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = config.session_expiry_s
        properties.ReceiveMaximum = config.receive_maximum
        host, port = config.address
        self.connect(host, port, config.keepalive_s, clean_start=False, properties=properties)

    def subscribe_all(self) -> None:
        """Ask for all filters. Retained messages come with new subscriptions only."""
        options = SubscribeOptions(
            qos=self.config.qos, retainHandling=SubscribeOptions.RETAIN_SEND_IF_NEW_SUB, retainAsPublished=False
        )
        self.subscribe([(text, options) for text in self.config.filters])

    def receive(self) -> None:
        """Take what the socket holds; messages are appended to `arrived`."""
        self._starved = False
        while not self._starved and self._sock is not None and self.has_room:
            if not self._take_publish():
                self.loop_read()

    def next(self) -> Message | None:
        """The oldest message of `arrived`, taken out of it."""
        if not self.arrived:
            return None
        message = self.arrived.popleft()
        self._arrived_bytes -= len(message.payload)
        return message

    @property
    def has_room(self) -> bool:
        """Whether more messages should be received; else they wait in the socket, and the broker with them."""
        return len(self.arrived) < WAITING_MAX and self._arrived_bytes < WAITING_BYTES_MAX

    @property
    def has_unread(self) -> bool:
        """Whether bytes wait here or in the TLS layer, where `select` does not see them."""
        if self._read < len(self._unread):
            return True
        sock = self.socket()
        return isinstance(sock, ssl.SSLSocket) and sock.pending() > 0

    def acknowledge(self, mids: list[int]) -> None:
        """Send PUBACK for messages of this connection, in this order."""
        packet = b"".join([_PUBACK.pack(paho.PUBACK, 2, mid) for mid in mids])
        self._packet_queue(paho.PUBACK, packet, 0, 0)

    def abandon(self) -> None:
        """Close the connection without a word; the broker keeps the session."""
        self._sock_close()

    def _sock_recv(self, bufsize: int) -> bytes:
        begin, end = self._read, self._read + bufsize
        if begin < len(self._unread):
            self._read = min(end, len(self._unread))
            return self._unread[begin:end]
        packet = self._in_packet["packet"]
        if len(packet) > self._keep_bytes:
            del packet[self._keep_bytes :]
        try:
            self._unread = super()._sock_recv(RECEIVE_BYTES)
        except BlockingIOError:
            self._starved = True
            raise
        self._read = min(bufsize, len(self._unread))
        return self._unread[: self._read]

    def _take_publish(self) -> bool:
        """Take a PUBLISH that is whole in the buffer; False where there is something else, for paho to deal with.

        The first packet of every buffer goes through paho, which so sees that the broker is alive.
        """
        data, at = self._unread, self._read
        if self._in_packet["command"] or len(data) - at < HEADER_BYTES_MAX or data[at] & 0xF0 != paho.PUBLISH:
            return False
        length, begin = _variable_integer(data, at + 1)
        end = begin + length
        if end > len(data):
            return False
        self._read = end
        self._publish(data[at], data, begin, end, length)
        return True

    def _handle_publish(self) -> Any:
        """What paho calls for a PUBLISH that it has read."""
        packet = self._in_packet["packet"]
        self._publish(self._in_packet["command"], packet, 0, len(packet), self._in_packet["remaining_length"])
        return paho.MQTT_ERR_SUCCESS

    def _publish(self, header: int, data: bytes | bytearray, begin: int, end: int, length: int) -> None:
        """Take a PUBLISH apart (MQTT 5, 3.3): `data` from `begin` to `end`, of which `length` bytes were sent."""
        at = begin + 2 + (data[begin] << 8 | data[begin + 1])
        topic = bytes(data[begin + 2 : at])
        mid = 0
        if header & 0x06:
            mid = data[at] << 8 | data[at + 1]
            at += 2
        properties, at = _variable_integer(data, at)
        at += properties
        payload = bytes(data[at : min(end, at + self.config.payload_bytes_max)])
        size = length - (at - begin)
        self._arrived_bytes += len(payload)
        self.arrived.append(Message(self, mid, topic, payload, size, bool(header & 0x01), time.time_ns()))


def _variable_integer(packet: bytes | bytearray, at: int) -> tuple[int, int]:
    """MQTT's variable byte integer at `at`, and where it ends."""
    value = 0
    for i in range(4):
        byte = packet[at + i]
        value |= (byte & 0x7F) << 7 * i
        if byte < 0x80:
            return value, at + i + 1
    raise ValueError("a variable byte integer of more than 4 bytes")


def client_id(config: Mqtt) -> str:
    """By which the broker knows the connector's session."""
    return f"twin-{config.id}"


def _tls(config: Mqtt) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=config.ca_file and str(config.ca_file))
    if config.certificate_file is not None:
        context.load_cert_chain(config.certificate_file, config.key_file)
    return context
