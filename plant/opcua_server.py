"""OPC UA server of the plant: variables `Reactor.<asset>.<Tag>.PV|SV` with units, written with their own source times.

A sample is written only when there is room for it in the queue of every monitored item on its node (asyncua drops the
oldest of a full queue without the overflow bit): so this server itself loses nothing, as long as `patience_s` lasts.
One place of a queue stays empty, because a subscriber must take a full queue for one that overflowed. And a
notification can be had again until it is acknowledged (asyncua forgets it when it was republished once).
Knows samples and OPC UA, nothing of physics.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from asyncua import Server, ua
from asyncua.server.internal_subscription import InternalSubscription

from plant import server_certificate
from plant.journal import Journal
from plant.samples import Sample, node_id

NAMESPACE = "urn:process-twin:plant"
UNITS_NAMESPACE = "http://www.opcfoundation.org/UA/units/un/cefact"
#: UNECE Recommendation 20 codes of the units we show; OPC UA's UnitId is the code's characters as a number.
UNECE = {"degC": "CEL", "L/min": "L2", "%": "P1", "kPa": "KPA", "pH": "Q30"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
LOOK_AGAIN_S = 0.005


class PlantServer:
    """The server. Without `certificate_dir` it offers no security; with it, Basic256Sha256 Sign&Encrypt only."""

    def __init__(
        self, url: str, journal: Journal, certificate_dir: Path | None = None, patience_s: float = 10.0
    ) -> None:
        self.written = 0
        self.overruns = 0
        self._url = url
        self._journal = journal
        self._certificate_dir = certificate_dir
        self._patience_s = patience_s
        self._gave_up = False
        self._server = Server()
        self._nodes: dict[tuple[str, str], ua.NodeId] = {}

    async def start(self, first: Sequence[Sample]) -> None:
        """Create a node for each of the first samples, which are journaled like all others, then listen."""
        server = self._server
        InternalSubscription.republish = republish
        await server.init()
        server.set_endpoint(self._url)
        server.set_server_name("process-twin plant")
        await server.set_application_uri(server_certificate.APPLICATION)
        await self._secure()
        namespace = await server.register_namespace(NAMESPACE)
        folders: dict[str, Any] = {"": await server.nodes.objects.add_folder(namespace, "Reactor")}
        for sample in first:
            await self._add(sample, namespace, folders)
        now_ns = time.time_ns()
        for sample in first:
            self._journal.reading(sample, now_ns)
            self.written += 1
        self._journal.flush()
        await server.start()

    async def stop(self) -> None:
        """Close all sessions and stop listening."""
        await self._server.stop()

    async def wait_for_subscribers(self, timeout_s: float) -> bool:
        """Whether every node was being monitored within the time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            if all(self._attribute(node).datachange_callbacks for node in self._nodes.values()):
                return True
            await asyncio.sleep(0.05)
        return False

    async def write(self, samples: Iterable[Sample]) -> None:
        """Write samples in their order, each journaled first; waits for room where a queue is full."""
        pending = list(samples)
        while pending:
            ready = self._that_fit(pending)
            if not ready:
                await self._wait_for_room(pending[0])
                ready = pending[:1]
            now_ns = time.time_ns()
            for sample in ready:
                self._journal.reading(sample, now_ns)
            self._journal.flush()
            for sample in ready:
                node = self._nodes[sample.asset, sample.tag]
                await self._server.write_attribute_value(node, data_value(sample))
            self.written += len(ready)
            del pending[: len(ready)]

    async def drain(self, timeout_s: float) -> bool:
        """Whether subscribers got and acknowledged everything within the time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            subscriptions = self._server.iserver.subscription_service.subscriptions.values()
            if not any(s._triggered_datachanges or s._not_acknowledged_results for s in subscriptions):
                return True
            await asyncio.sleep(0.02)
        return False

    def _that_fit(self, samples: Sequence[Sample]) -> list[Sample]:
        """The first samples, as many as there is room for."""
        rooms: dict[tuple[str, str], float] = {}
        for i, sample in enumerate(samples):
            key = (sample.asset, sample.tag)
            room = rooms[key] if key in rooms else self._room(key)
            if room < 1:
                return list(samples[:i])
            rooms[key] = room - 1
        return list(samples)

    def _room(self, key: tuple[str, str]) -> float:
        """Places to fill in the fullest queue of a node's monitored items; infinite where nobody monitors it."""
        free = float("inf")
        for handle, callback in self._attribute(self._nodes[key]).datachange_callbacks.items():
            service = callback.__self__
            item = service._monitored_items[service._monitored_datachange[handle]]
            waiting = service.isub._triggered_datachanges.get(item.monitored_item_id, ())
            places = max(1, item.queue_size - 1) if item.queue_size else float("inf")
            free = min(free, places - len(waiting))
        return free

    async def _wait_for_room(self, sample: Sample) -> None:
        # Who did not come for so long does not hold up the plant again until there is room once more.
        deadline = time.monotonic() + (0.0 if self._gave_up else self._patience_s)
        while self._room((sample.asset, sample.tag)) < 1:
            if time.monotonic() > deadline:
                self.overruns += 1
                self._gave_up = True
                return
            await asyncio.sleep(LOOK_AGAIN_S)
        self._gave_up = False

    def _attribute(self, node: ua.NodeId) -> Any:
        return self._server.iserver.aspace._nodes[node].attributes[ua.AttributeIds.Value]

    async def _add(self, sample: Sample, namespace: int, folders: dict[str, Any]) -> None:
        name = node_id(sample.asset, sample.tag)
        _, asset, tag, role = name.split(".")
        if asset not in folders:
            folders[asset] = await folders[""].add_folder(namespace, asset)
        if f"{asset}.{tag}" not in folders:
            folders[f"{asset}.{tag}"] = await folders[asset].add_object(namespace, tag)
        node = ua.NodeId(name, namespace)
        start = ua.Variant(0.0, ua.VariantType.Double)
        added = await folders[f"{asset}.{tag}"].add_variable(node, ua.QualifiedName(role, namespace), start)
        if sample.unit:
            unit = ua.Variant(engineering_unit(sample.unit), ua.VariantType.ExtensionObject)
            await added.add_property(ua.NodeId(0, namespace), ua.QualifiedName("EngineeringUnits", 0), unit)
        await self._server.write_attribute_value(node, data_value(sample))
        self._nodes[sample.asset, sample.tag] = node

    async def _secure(self) -> None:
        policy = ua.SecurityPolicyType.NoSecurity
        if self._certificate_dir is not None:
            certificate, key = server_certificate.paths(self._certificate_dir)
            await server_certificate.make(certificate, key)
            await self._server.load_certificate(certificate)
            await self._server.load_private_key(key)
            policy = ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt
        self._server.set_security_policy([policy])


def republish(subscription: Any, number: int) -> ua.NotificationMessage:
    """A notification that is not acknowledged yet; it stays until it is (OPC 10000-4 §5.14.6)."""
    result = subscription._not_acknowledged_results.get(number)
    return result.NotificationMessage if result else ua.NotificationMessage()


def data_value(sample: Sample) -> ua.DataValue:
    """A sample as OPC UA carries it; Bad carries no value."""
    value = ua.Variant(None, ua.VariantType.Null)
    if sample.value is not None:
        value = ua.Variant(sample.value, ua.VariantType.Double)
    source = EPOCH + timedelta(microseconds=sample.source_time_ns // 1000)
    return ua.DataValue(value, ua.StatusCode(sample.status), SourceTimestamp=source, ServerTimestamp=datetime.now(UTC))


def engineering_unit(unit: str) -> ua.EUInformation:
    """EUInformation of a unit: its symbol, and the UNECE code where we know it."""
    code = int.from_bytes(UNECE[unit].encode("ascii")) if unit in UNECE else -1
    return ua.EUInformation(
        NamespaceUri=UNITS_NAMESPACE,
        UnitId=code,
        DisplayName=ua.LocalizedText(unit),
        Description=ua.LocalizedText(unit),
    )
