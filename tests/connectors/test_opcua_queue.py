"""What a server's queues lose while nobody asks, where they are shorter than we asked for."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from connectors.opcua_intake import Intake
from connectors.opcua_memory import Memory
from connectors.opcua_nodes import Nodes
from connectors.opcua_session import Session
from connectors.opcua_subscription import Subscription
from runtime.config import Opcua
from runtime.config import Plant as PlantConfig
from tests.connectors.opcua_server import Plant, Settings
from tests.connectors.opcua_tools import free_port, until
from tests.connectors.test_opcua_intake import Kafka

SECOND = 1_000_000_000
NAME = "Reactor.R0.Temperature.PV"

Subscribe = Callable[[Subscription, Memory], Awaitable[object]]


@asynccontextmanager
async def server(queue_max: int) -> AsyncIterator[Plant]:
    """A server of one variable that queues no more than so many values for anybody, and sets no overflow bit."""
    plant = Plant(Settings(port=free_port(), assets=1))
    plant.server.iserver.max_monitored_item_queue_size = queue_max
    await plant.start()
    try:
        yield plant
    finally:
        await plant.server.stop()


@asynccontextmanager
async def connector(directory: Path, plant: Plant, kafka: Any, subscribe: Subscribe) -> AsyncIterator[None]:
    """A process of the connector, killed at the end."""

    async def recall(*_: object) -> None:
        raise AssertionError("there is no history")

    url = f"opc.tcp://127.0.0.1:{plant.settings.port}/"
    config = Opcua(id="ua", url=url, publishing_s=0.05, security="None", mode="None")
    memory = Memory(directory, "ua")
    session = await Session.open(config, memory.resumable)
    items = await Nodes(PlantConfig(opcua=(config,)), config).items(session)
    memory.bind(items)
    intake = Intake(items, memory, kafka, recall)
    subscription = Subscription(session, items, memory, intake)
    await subscribe(subscription, memory)
    publishing = asyncio.create_task(subscription.run())
    try:
        yield
    finally:
        publishing.cancel()
        await session.drop()


async def create(subscription: Subscription, _memory: Memory) -> None:
    """As the first process does."""
    await subscription.create()


async def take_over(subscription: Subscription, memory: Memory) -> None:
    """As the next one does."""
    assert memory.resumable is not None and await subscription.take_over(memory.resumable)


async def there(kafka: Kafka, time_ns: int) -> None:
    """Wait until the value of this time is in Kafka."""
    await asyncio.to_thread(until, lambda: time_ns in kafka.times, 10, f"the value of {time_ns}")


@pytest.mark.services
async def test_a_queue_of_one_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A server that queues one value where 128 were asked for is warned of once; what changes while the connector is
    away is one gap frame, from the last value before to the one that is left."""
    kafka = Kafka()
    async with server(queue_max=1) as plant:
        async with connector(tmp_path, plant, kafka, create):
            await plant.write(NAME, 1.0, 1000 * SECOND)
            await there(kafka, 1000 * SECOND)
        for second in range(1001, 1031):
            await plant.write(NAME, 1.0, second * SECOND)
        async with connector(tmp_path, plant, kafka, take_over):
            for second in (1030, 1031, 1032):
                await plant.write(NAME, 1.0, second * SECOND)
                await there(kafka, second * SECOND)
    assert kafka.times[-4:] == [second * SECOND for second in (1000, 1030, 1031, 1032)]
    # More only where this process stood still between two values: a queue of one is full at once.
    assert kafka.gaps[:1] == [(1000 * SECOND, 1030 * SECOND, "the server's queue was full")]
    assert [r.message.count("queues 1 values, not 128") for r in caplog.records if r.name.startswith("conn")] == [1]
