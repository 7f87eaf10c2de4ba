"""A real OPC UA server in its own process for tests: does what it is told on stdin, one JSON command per line.

python -m tests.connectors.opcua_server '{"port": 4840, "assets": 2, "tags": ["Temperature"]}'
"""

import asyncio
import json
import logging
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from asyncua import Server, ua
from asyncua.server.user_managers import User, UserManager, UserRole

URI = "urn:process-twin:tests"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What the server is; see ServerProcess for how tests start one."""

    port: int
    assets: int = 2
    tags: list[str] = field(default_factory=lambda: ["Temperature"])
    roles: list[str] = field(default_factory=lambda: ["PV"])
    unit: str = "degC"
    certificate: str | None = None
    key: str | None = None
    user: str | None = None
    password: str | None = None
    other_namespaces: int = 0  # registered first, so that ours moves
    historise: bool = False


class OneUser(UserManager):  # type: ignore[misc]
    """Lets in one user by name and password, and nobody else."""

    def __init__(self, name: str, password: str) -> None:
        self._wanted = (name, password)

    def get_user(
        self, _iserver: Any, username: str | None = None, password: Any = None, certificate: Any = None
    ) -> Any:
        """None: refused."""
        given = password.decode() if isinstance(password, bytes) else password
        return User(role=UserRole.User, name=username) if (username, given) == self._wanted else None


def moment(time_ns: int) -> datetime:
    """OPC UA's clock in this library has microseconds."""
    return EPOCH + timedelta(microseconds=time_ns // 1000)


class Plant:
    """The server's variables `Reactor.R0.Temperature.PV` …, of type Double."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.server = Server(user_manager=OneUser(settings.user, settings.password or "") if settings.user else None)
        self.index = 0

    async def start(self) -> None:
        """Listen on loopback."""
        s = self.settings
        await self.server.init()
        self.server.set_endpoint(f"opc.tcp://127.0.0.1:{s.port}/")
        if s.certificate and s.key:
            await self.server.set_application_uri(f"{URI}:server")
            await self.server.load_certificate(s.certificate)
            await self.server.load_private_key(s.key)
            self.server.set_security_policy([ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt])
        else:
            self.server.set_security_policy([ua.SecurityPolicyType.NoSecurity])
        for number in range(s.other_namespaces):
            await self.server.register_namespace(f"urn:other:{number}")
        self.index = await self.server.register_namespace(URI)
        for name in self.names():
            await self.add(name)
        await self.server.start()

    def names(self) -> list[str]:
        """String ids of all variables."""
        s = self.settings
        return [f"Reactor.R{a}.{tag}.{role}" for a in range(s.assets) for tag in s.tags for role in s.roles]

    def node_id(self, name: str) -> ua.NodeId:
        """The variable's node id as it is in this run."""
        return ua.NodeId(name, self.index)

    async def add(self, name: str, start: str | float = 0.0, time_ns: int | None = None) -> None:
        """A variable of ours, with its unit."""
        initial = start if isinstance(start, str) else float(start)
        kind = ua.VariantType.String if isinstance(start, str) else ua.VariantType.Double
        node = await self.server.nodes.objects.add_variable(self.node_id(name), name, initial, kind)
        unit = ua.EUInformation(NamespaceUri="", UnitId=-1, DisplayName=ua.LocalizedText(self.settings.unit))
        await node.add_property(ua.NodeId(f"{name}.unit", self.index), ua.QualifiedName("EngineeringUnits", 0), unit)
        if self.settings.historise:
            await self.server.iserver.history_manager.historize_data_change(node, count=10_000)
        await self.write(name, start, time_ns)

    async def write(self, name: str, value: Any, time_ns: int | None = None, status: int = 0) -> None:
        """A value with its source time and status; None: no value."""
        kind = {str: ua.VariantType.String, type(None): ua.VariantType.Null}.get(type(value), ua.VariantType.Double)
        now = datetime.now(UTC)
        data = ua.DataValue(
            ua.Variant(float(value) if kind == ua.VariantType.Double else value, kind),
            StatusCode=ua.StatusCode(status),
            SourceTimestamp=now if time_ns is None else moment(time_ns),
            ServerTimestamp=now,
        )
        await self.server.write_attribute_value(self.node_id(name), data)

    async def script(self, changes: int, pause_s: float, from_ns: int, step_ns: int, first: int = 0) -> None:
        """Every variable changes so many times: value = first + change + number of the variable / 1000."""
        for change in range(changes):
            for number, name in enumerate(self.names()):
                await self.write(name, first + change + number / 1000, from_ns + change * step_ns)
            await asyncio.sleep(pause_s)

    async def steady(self, seconds: int, parts: int) -> None:
        """Every variable changes once a second, in so many parts of the second."""
        names = self.names()
        loop = asyncio.get_running_loop()
        start_s = loop.time()
        for step in range(seconds * parts):
            for number in range(step % parts, len(names), parts):
                await self.write(names[number], step + number / 1000)
            await asyncio.sleep(start_s + (step + 1) / parts - loop.time())

    async def delete(self, name: str) -> None:
        """Remove a variable while it is subscribed."""
        await self.server.delete_nodes([self.server.get_node(self.node_id(n)) for n in (name, f"{name}.unit")])

    async def cut(self) -> None:
        """Close every client's connection; sessions stay."""
        for transport in list(self.server.iserver.asyncio_transports):
            transport.close()

    async def forget(self, sequence: int) -> None:
        """Drop a notification from the retransmission queue, and never send it: as if lost."""
        for subscription in self.server.iserver.subscription_service.subscriptions.values():
            if subscription.pub_request_callback is not None:
                subscription._notification_seq += sequence

    async def end_sessions(self) -> None:
        """End every client's session and connection, as an administrator would."""
        for session in list(self.server.iserver._external_sessions.values()):
            await session.close_session(True)
        await self.cut()


async def main(plant: Plant) -> None:
    """Serve until stdin ends."""
    await plant.start()
    print("ready", flush=True)
    loop = asyncio.get_running_loop()
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        command = json.loads(line)
        await getattr(plant, command.pop("do"))(**command)
        print("done", flush=True)
    await plant.server.stop()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    asyncio.run(main(Plant(Settings(**json.loads(sys.argv[1])))))
