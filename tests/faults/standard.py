"""What most rows do: start everything, let readings flow, strike, let it drain, check every reading."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Literal

from services.kafka import Kafka
from services.processes import free_port
from services.stack import Stack
from tests.agents.fault_proxy import fault_proxy
from tests.faults.proxy import TcpProxy, tcp_proxy
from tests.faults.rig import Rig
from tests.faults.system import DEFAULT_LOAD, Load, System, Table, running

Strike = Callable[[Rig, System], None]


def under_load(
    rig: Rig,
    strike: Strike,
    *,
    settings: Table | None = None,
    load: Load | None = DEFAULT_LOAD,
    fail_points: bool = False,
    told: bool = False,
    proxies: tuple[Literal["influxdb", "kafka"], ...] = (),
) -> None:
    """Run a row: `strike` while `load` flows through a system of its own. `told`: see `System.finish`;
    `fail_points`: see `running`.

    `proxies`: the services that connectors and agents reach through a proxy only, which passes on until told otherwise.
    """
    stack = Stack(rig.folder / "services")
    with ExitStack() as ends:
        kafka_proxy = influxdb_proxy = None
        if "kafka" in proxies:
            kafka_proxy = ends.enter_context(tcp_proxy(("127.0.0.1", free_port()), rig.outcome.seed))
            listen_behind(stack.kafka, kafka_proxy)
        ends.enter_context(stack)
        if "influxdb" in proxies:
            influxdb_proxy = ends.enter_context(fault_proxy(stack.influxdb.url))
        system = ends.enter_context(
            running(
                rig,
                stack,
                settings,
                load,
                influxdb_proxy=influxdb_proxy,
                kafka_proxy=kafka_proxy,
                fail_points=fail_points,
            )
        )
        strike(rig, system)
        system.finish(told=told)


def listen_behind(kafka: Kafka, proxy: TcpProxy) -> None:
    """Give the broker a second listener that tells clients to come back through the proxy."""
    settings, (host, port) = kafka.settings(), proxy.target
    kafka.extra_settings |= {
        "listeners": f"{settings['listeners']},PROXIED://{host}:{port}",
        "advertised.listeners": f"{settings['advertised.listeners']},PROXIED://{proxy.address}",
        "listener.security.protocol.map": f"{settings['listener.security.protocol.map']},PROXIED:PLAINTEXT",
        "inter.broker.listener.name": "PLAINTEXT",
    }


@contextmanager
def bounded_memory(rig: Rig, system: System) -> Iterator[None]:
    """Require that in the block no process grows far beyond what it had before."""
    rig.wait_for(system.resources.memory_mib, "memory is sampled", 30)
    before_mib = system.resources.memory_mib()
    yield
    grown = system.resources.grown(before_mib, factor=1.5, allowance_mib=64.0)
    rig.require(not grown, f"memory stays bounded: {'; '.join(grown)}")
