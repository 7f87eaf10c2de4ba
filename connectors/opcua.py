"""The OPC UA connector's process: connect, subscribe, hand over, and do it again whenever the server fails.

Guarantees: a notification is acknowledged only after Kafka or the disk spool has its readings; what the server could
not keep for us becomes a gap frame or comes from its history. Ends only when told to, and leaves session and
subscription to the next process. May not know agents.
"""

import asyncio
import logging
import signal
import time

from connectors import opcua_history
from connectors.delivery import Delivery, Spooling
from connectors.framer import Framer
from connectors.opcua_binary import MalformedAnswer, Value
from connectors.opcua_intake import Intake
from connectors.opcua_memory import Memory
from connectors.opcua_nodes import Nodes
from connectors.opcua_outlet import GapNote, Outlet
from connectors.opcua_session import TROUBLE, Session, describe
from connectors.opcua_subscription import Subscription
from connectors.opcua_values import Item
from connectors.opcua_watch import Watch, read_cyclically, together
from connectors.reduction import Reducer
from runtime.config import ConfigurationError, Opcua, Plant
from runtime.exit_codes import BAD_CONFIGURATION, OK
from runtime.health import HEALTH, MAIN
from runtime.metrics import RETRIES
from runtime.watchdog import Watchdog

log = logging.getLogger(__name__)

PART = "opcua"
STAGE = "connector.opcua"
RETRY_FIRST_S, RETRY_MAX_S = 0.25, 5.0
STOP_S = 10.0
BEAT_S = 1.0


def run(plant: Plant, connector_id: str) -> int:
    """Run one connector until SIGTERM or SIGINT. Returns an exit code."""
    config = next(o for o in plant.opcua if o.id == connector_id)
    try:
        nodes = Nodes(plant, config)
    except ConfigurationError as error:
        for problem in error.problems:
            log.error(problem)
        return BAD_CONFIGURATION
    return asyncio.run(Connector(plant, config, nodes).serve())


class Connector:
    """One server, one session at a time."""

    def __init__(self, plant: Plant, config: Opcua, nodes: Nodes) -> None:
        self._config = config
        self._nodes = nodes
        self._watchdog = Watchdog(HEALTH, patience_s=config.watchdog_s)
        self._memory = Memory(config.state_dir, config.id)
        spooling = Spooling(directory=config.state_dir, connector_id=config.id, limits=config.spool, drops=False)
        self._delivery = Delivery(plant.kafka, STAGE, HEALTH, spooling)
        framing = config.framing.model_copy(update={"linger_s": 0.0})  # one publish answer is one frame per asset
        self._outlet = Outlet(Framer(config.id, time.time_ns(), framing), Reducer(plant), self._delivery)
        self._outlet.expect(self._assets())  # also while the server cannot be reached
        self._outlet.connected(False)
        self._intake: Intake | None = None
        self._cause = "connector was not running"  # of the hole before the next new subscription

    def _assets(self) -> list[str]:
        """All assets that are known, also without the server."""
        return list(dict.fromkeys([*self._nodes.assets, *self._memory.assets]))

    async def serve(self) -> int:
        """Until SIGTERM or SIGINT."""
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        self._watchdog.start()
        hearts = [asyncio.create_task(beat()) for beat in (self._beat, _live)]
        try:
            await self._keep_connected(stopping)
        finally:
            for heart in hearts:
                heart.cancel()
        HEALTH.rest(MAIN)
        everything = await asyncio.to_thread(self._delivery.close, STOP_S / 2)
        self._watchdog.stop()
        log.info("stopped%s", "" if everything else "; what is unconfirmed will be asked for again")
        return OK

    async def _keep_connected(self, stopping: asyncio.Event) -> None:
        stop = asyncio.create_task(stopping.wait())
        wait_s = RETRY_FIRST_S
        while not stopping.is_set():
            work = asyncio.create_task(self._work(stopping))
            await asyncio.wait({work, stop}, return_when=asyncio.FIRST_COMPLETED)
            if stopping.is_set():
                await self._finish(work)
                break
            error = work.exception()
            if not isinstance(error, TROUBLE):
                raise error or RuntimeError("the connector's work ended by itself")
            if HEALTH.reason(PART) == "":
                wait_s = RETRY_FIRST_S
            self._outlet.connected(False)
            HEALTH.ill(PART, f"{self._config.address}: {describe(error)}")
            RETRIES.labels(PART).inc()
            await asyncio.wait({stop}, timeout=wait_s)
            wait_s = min(2 * wait_s, RETRY_MAX_S)

    async def _finish(self, work: asyncio.Task[None]) -> None:
        work.cancel()
        done, _ = await asyncio.wait({work}, timeout=STOP_S)
        if not done:
            log.warning("the session did not end in %.0f s", STOP_S)
        elif not work.cancelled() and (error := work.exception()) is not None:
            log.info("while stopping: %s", describe(error))

    async def _work(self, stopping: asyncio.Event) -> None:
        """One session, from connecting to its end by TROUBLE or by being cancelled."""
        if self._intake is not None:
            await self._intake.settled()  # else the server is asked again for what the last session still writes
        resumable = self._memory.resumable
        if resumable is not None and resumable.url != self._config.address:
            resumable = None
        session = await Session.open(self._config, resumable)
        try:
            intake, subscription = await self._subscribe(session)
            self._outlet.connected(True)
            HEALTH.well(PART)
            self._cause = "subscription lost"
            await together(
                subscription.run(), Watch(session, subscription, intake).run(), read_cyclically(session, intake)
            )
        except MalformedAnswer:
            self._memory.keep(None)  # asking for the same message again would not help
            raise
        finally:
            await self._leave(session, for_good=stopping.is_set())

    async def _subscribe(self, session: Session) -> tuple[Intake, Subscription]:
        items = await self._nodes.items(session)
        if not items:
            raise ConnectionError(
                f"no variable matches discover = {self._config.discover!r}, and no node is configured"
            )
        resumable = self._memory.resumable if session.resumed and self._memory.same_items(items) else None
        orphan = self._memory.resumable.subscription if session.resumed and self._memory.resumable else None
        intake = await self._intake_of(session, items)
        self._outlet.expect(item.asset for item in items)
        subscription = Subscription(session, items, self._memory, intake)
        cyclic = [i for i, item in enumerate(items) if item.cyclic]
        intake.expect_hole(cyclic, self._cause)
        if resumable is not None and await subscription.take_over(resumable):
            log.info("%s: went on with our subscription of %d items", self._config.address, len(items))
            return intake, subscription
        subscription = Subscription(session, items, self._memory, intake)
        if orphan is not None:
            await subscription.delete(orphan)
        intake.expect_hole(range(len(items)), self._cause)
        # A server that was started anew gives the same numbers again: the same id is not the same subscription.
        self._memory.keep(None)
        await subscription.create()
        log.info(
            "%s: subscribed to %d items of %d assets, %d absent",
            self._config.address,
            len(items) - len(cyclic),
            len({item.asset for item in items}),
            len(subscription.absent),
        )
        return intake, subscription

    async def _intake_of(self, session: Session, items: list[Item]) -> Intake:
        """The one we have goes on, with what it still expects, as long as the items are the same."""

        async def recall(item: Item, since_ns: int, until_ns: int) -> tuple[list[Value], bool] | None:
            return await opcua_history.recall(session, item, since_ns, until_ns)

        if self._intake is None or not self._memory.same_items(items):
            self._memory.bind(items)
            self._intake = Intake(items, self._memory, self._outlet, recall)
        self._intake.items, self._intake.recall = items, recall  # units may have changed
        return self._intake

    async def _leave(self, session: Session, for_good: bool) -> None:
        """Cut the connection only, so that the server keeps its queues for us or the next process. Told to stop:
        first see that what is under way is safe."""
        if for_good and self._intake is not None:
            try:
                await asyncio.wait_for(self._intake.settled(), STOP_S / 2)
                await asyncio.wait_for(self._outlet.finish(), STOP_S / 4)
            except TimeoutError:
                log.warning("what is neither in Kafka nor in the spool stays with the server")
        await session.drop()

    async def _beat(self) -> None:
        """Heartbeats of silent assets and what reduction holds back, whatever the connection does."""
        while True:
            due_s = self._outlet.due_in_s()
            await asyncio.sleep(0.5 if due_s is None else min(max(due_s, 0.05), 0.5))
            while self._delivery.losses:
                gap = self._delivery.losses.popleft()
                await self._outlet.write((), [GapNote(asset=asset, gap=gap) for asset in self._assets()])
            await self._outlet.tick()


async def _live() -> None:
    """Beats while the event loop comes round, whatever else waits for Kafka or the server."""
    while True:
        HEALTH.beat()
        await asyncio.sleep(BEAT_S)
