"""Real clients that read what the plant sends, over TCP: an OPC UA subscription and an MQTT subscription."""

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import orjson
import paho.mqtt.client as mqtt
from asyncua import Client, Node, ua
from asyncua.common.subscription import Subscription

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Change:
    """One data change as it came."""

    node: str
    source_time_ns: int
    value: float | None
    status: int


@dataclass
class OpcuaReader:
    """Subscribes to all `Reactor.*` variables in a thread of its own, from the moment the server is there."""

    url: str
    queue_size: int = 10
    publishing_ms: float = 100.0
    secure: Callable[[Client], Any] | None = None
    changes: list[Change] = field(default_factory=list)
    units: dict[str, str] = field(default_factory=dict)
    sequence: list[int] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    error: BaseException | None = None

    def __enter__(self) -> Self:
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(20)
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        try:
            asyncio.run(self._read())
        except BaseException as error:  # handed to the test
            self.error = error

    async def _read(self) -> None:
        client = await self._connected()
        if client is None:
            return
        try:
            nodes = await _variables(client.nodes.objects)
            for node in nodes:
                for prop in await node.get_properties():
                    self.units[node.nodeid.Identifier] = (await prop.read_value()).DisplayName.Text
            await self._subscribe(client, nodes)
            while not self._stop.is_set():  # noqa: ASYNC110 - set by another thread
                await asyncio.sleep(0.05)
        finally:
            await client.disconnect()

    async def _connected(self) -> Client | None:
        while not self._stop.is_set():
            client = Client(self.url)
            try:
                if self.secure is not None:
                    await self.secure(client)
                await client.connect()
                return client
            except OSError:
                await asyncio.sleep(0.1)
        return None

    async def _subscribe(self, client: Client, nodes: list[Node]) -> None:
        names = [node.nodeid.Identifier for node in nodes]

        class Whole(Subscription):
            async def publish_callback(_self, result: ua.PublishResult) -> None:
                self._take(result, names)

        params = ua.CreateSubscriptionParameters(
            RequestedPublishingInterval=self.publishing_ms,
            RequestedLifetimeCount=1000,
            RequestedMaxKeepAliveCount=50,
            PublishingEnabled=True,
        )
        subscription = Whole(client.uaclient, params, None)
        await subscription.init()
        wanted = ua.DataChangeFilter(Trigger=ua.DataChangeTrigger.StatusValueTimestamp)
        requests = [
            subscription._make_monitored_item_request(
                node, ua.AttributeIds.Value, wanted, self.queue_size, ua.MonitoringMode.Reporting, self.publishing_ms
            )
            for node in nodes
        ]
        for i, request in enumerate(requests):
            request.RequestedParameters.ClientHandle = i
        await subscription.create_monitored_items(requests)

    def _take(self, result: ua.PublishResult, names: list[str]) -> None:
        data = result.NotificationMessage.NotificationData
        if not data or not isinstance(data[0], ua.DataChangeNotification):
            return
        self.sequence.append(int(result.NotificationMessage.SequenceNumber))
        self.sizes.append(max(Counter(item.ClientHandle for item in data[0].MonitoredItems).values()))
        for item in data[0].MonitoredItems:
            v = item.Value
            since: timedelta = v.SourceTimestamp - EPOCH
            source_time_ns = since // timedelta(microseconds=1) * 1000
            self.changes.append(Change(names[item.ClientHandle], source_time_ns, v.Value.Value, v.StatusCode.value))


async def _variables(start: Node) -> list[Node]:
    found = []
    for child in await start.get_children():
        if isinstance(child.nodeid.Identifier, str) and child.nodeid.Identifier.startswith("Reactor."):
            found.append(child)
        elif child.nodeid.NamespaceIndex > 1:
            found += await _variables(child)
    return found


@dataclass
class MqttReader:
    """Subscribes to everything the devices may send."""

    host: str
    port: int
    messages: list[tuple[str, bytes]] = field(default_factory=list)

    def __enter__(self) -> Self:
        ready = threading.Event()
        self._client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
        self._client.on_message = lambda _c, _u, m: self.messages.append((m.topic, m.payload))
        self._client.on_subscribe = lambda *_: ready.set()
        self._client.connect(self.host, self.port)
        self._client.loop_start()
        self._client.subscribe("reactor/+/sensor/#", qos=1)
        assert ready.wait(5)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def wait_for(self, n: int, timeout_s: float = 10.0) -> None:
        """Wait until `n` messages have come."""
        deadline = time.monotonic() + timeout_s
        while len(self.messages) < n and time.monotonic() < deadline:
            time.sleep(0.02)

    def payloads(self) -> list[tuple[str, dict[str, Any]]]:
        """Topic and content of all messages that are JSON."""
        found = []
        for topic, body in self.messages:
            try:
                found.append((topic, orjson.loads(body)))
            except orjson.JSONDecodeError:
                continue
        return found
