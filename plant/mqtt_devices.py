"""MQTT devices: one client per asset, QoS 1, all of them driven by one thread without locks between them.

Every message is confirmed by the broker before the run counts as over; what is unconfirmed when a connection breaks is
sent again after the reconnect. Knows samples and MQTT, nothing of physics.
"""

import select
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import orjson
import paho.mqtt.client as mqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from plant.journal import Journal
from plant.samples import Sample, topic

NO_SUBSCRIBER = 0x10  # MQTT 5 reason code of a PUBACK
BACKOFF_S = (0.2, 5.0)
KEEPALIVE_S = 20


class Devices:
    """Clients of all assets seen so far. `window`: most messages in flight per client, None for no limit."""

    def __init__(self, host: str, port: int, journal: Journal, window: int | None = None) -> None:
        self._address = (host, port)
        self._journal = journal
        self._window = window
        self._devices: dict[str, _Device] = {}

    def connect(self, assets: Iterable[str]) -> None:
        """Connect a client per asset. Raises ConnectionError when the broker is not there."""
        for asset in assets:
            self._devices[asset] = _Device(asset, *self._address)
        while not all(device.connected for device in self._devices.values()):
            self.poll(0.1)

    def publish(self, samples: Sequence[Sample]) -> None:
        """Hand samples over, journal first, in their order; waits while a client's window is full."""
        for start in range(0, len(samples), step := self._window or len(samples) or 1):
            part = samples[start : start + step]
            while not self._room(part):
                self.poll(0.05)
            now_ns = time.time_ns()
            for sample in part:
                self._journal.reading(sample, now_ns)
            self._journal.flush()
            for sample in part:
                self._devices[sample.asset].publish(topic(sample.asset, sample.tag), payload(sample))

    def poll(self, timeout_s: float, also: Any = None) -> bool:
        """Serve all connections until something happens or the time is over; whether `also` can be read."""
        sockets = {d.client.socket(): d for d in self._devices.values() if d.client.socket() is not None}
        writers = [s for s, d in sockets.items() if d.client.want_write()]
        readers = [*sockets, *([] if also is None else [also])]
        readable, writable, _ = select.select(readers, writers, [], timeout_s)
        for s in readable:
            if s in sockets:
                sockets[s].client.loop_read()
        for s in writable:
            sockets[s].client.loop_write()
        for device in self._devices.values():
            device.look_after()
        return also in readable

    def drain(self, timeout_s: float) -> None:
        """Wait until the broker has confirmed everything, then disconnect. Raises ConnectionError when it has not."""
        deadline = time.monotonic() + timeout_s
        while self.unconfirmed and time.monotonic() < deadline:
            self.poll(0.1)
        left = self.unconfirmed
        for device in self._devices.values():
            device.client.disconnect()
        if left:
            raise ConnectionError(f"the broker has not confirmed {left} messages within {timeout_s} s")

    @property
    def unconfirmed(self) -> int:
        """Messages on their way to the broker."""
        return sum(device.unconfirmed for device in self._devices.values())

    @property
    def confirmed(self) -> int:
        """Messages the broker has taken over."""
        return sum(device.confirmed for device in self._devices.values())

    @property
    def unheard(self) -> int:
        """Messages the broker has taken although nobody had subscribed to them."""
        return sum(device.unheard for device in self._devices.values())

    def _room(self, part: Sequence[Sample]) -> bool:
        if self._window is None:
            return True
        need = Counter(sample.asset for sample in part)
        return all(self._devices[a].unconfirmed + n <= max(self._window, n) for a, n in need.items())


class _Device:
    """The client of one asset."""

    def __init__(self, asset: str, host: str, port: int) -> None:
        self.connected = False
        self.unconfirmed = self.confirmed = self.unheard = 0
        self._held: list[tuple[str, bytes]] = []
        self._backoff_s, self._again_at = BACKOFF_S[0], 0.0
        self.client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2,
            client_id=f"plant-{asset}",
            protocol=mqtt.MQTTv5,
            reconnect_on_failure=False,
        )
        self.client.max_inflight_messages_set(0)
        self.client.on_connect = self._on_connect
        self.client.on_disconnect = self._on_disconnect
        self.client.on_publish = self._on_publish
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        self.client.connect(host, port, keepalive=KEEPALIVE_S, clean_start=True, properties=properties)

    def publish(self, name: str, body: bytes) -> None:
        """Hand a message to the client; it keeps it until it is confirmed.

        While a connection is being made it is held here: paho would send it before those that wait to be sent again.
        """
        self.unconfirmed += 1
        self._held.append((name, body))
        self._hand_over()

    def look_after(self) -> None:
        """Pings when due; reconnects with backoff when the connection is gone."""
        if self.client.socket() is not None:
            self._hand_over()
            self.client.loop_misc()
        elif time.monotonic() >= self._again_at:
            self._again_at = time.monotonic() + self._backoff_s
            self._backoff_s = min(2.0 * self._backoff_s, BACKOFF_S[1])
            try:
                self.client.reconnect()
            except OSError:
                self.connected = False

    def _hand_over(self) -> None:
        if self.connected:
            held, self._held = self._held, []
            for name, body in held:
                self.client.publish(name, body, qos=1)

    def _on_connect(self, _c: Any, _u: Any, _f: Any, reason: ReasonCode, _p: Any) -> None:
        if reason.is_failure:
            raise ConnectionError(f"the broker refuses the plant's devices: {reason}")
        self.connected, self._backoff_s = True, BACKOFF_S[0]

    def _on_disconnect(self, _c: Any, _u: Any, _f: Any, _reason: ReasonCode, _p: Any) -> None:
        self.connected = False

    def _on_publish(self, _c: Any, _u: Any, _mid: int, reason: ReasonCode, _p: Any) -> None:
        if reason.is_failure:
            raise ConnectionError(f"the broker refuses a message of the plant's devices: {reason}")
        self.unconfirmed -= 1
        self.confirmed += 1
        self.unheard += reason.value == NO_SUBSCRIBER


def payload(sample: Sample) -> bytes:
    """The message of a sample: JSON with value, unit and time, or its garbage."""
    if sample.garbage is not None:
        return sample.garbage
    value = sample.value if sample.text is None else sample.text
    return orjson.dumps({"value": value, "unit": sample.unit, "timestamp": iso_time(sample.source_time_ns)})


def iso_time(time_ns: int) -> str:
    """ISO 8601 in UTC with 6 digits of a second, or 9 where they are needed."""
    seconds, rest_ns = divmod(time_ns, 1_000_000_000)
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
    return f"{whole}.{rest_ns:09d}Z" if rest_ns % 1000 else f"{whole}.{rest_ns // 1000:06d}Z"
