"""A subscription and its publish loop: sequence check, republish, acknowledgement after Kafka has confirmed.

asyncua's own loop acknowledges whatever its callback does and decodes slowly, so the loop is here. One Publish is
under way at a time: the server's queues are the buffer while Kafka is slow, and order needs no care.
"""

import asyncio
import logging
import math
import time
from collections import defaultdict
from collections.abc import Sequence

from asyncua import ua

from connectors import opcua_binary
from connectors.opcua_binary import MalformedAnswer, Notification, Published
from connectors.opcua_intake import Intake
from connectors.opcua_memory import Memory, Resumable
from connectors.opcua_session import TIMEOUT_S, Session, chunks, describe
from connectors.opcua_values import GONE, Item, status_name
from runtime.config import Opcua
from runtime.health import HEALTH

log = logging.getLogger(__name__)

PART = "items"
LIFETIME_S = 3600.0  # how long a server should keep the queues while we do not ask
NOTIFICATIONS_MAX = 10_000  # values per answer; bounds memory
REPUBLISH_MAX = 1000
TICK_S = 0.25
STANDSTILL_S = 1.0  # this process did nothing for so long (SIGSTOP, a machine asleep): queues may have overflowed
_SEQUENCES = 2**32 - 1  # numbers go from 1 to this one, then from 1 again

#: A filter that a server does not support for this item: subscribe without one.
_FILTER_REFUSED = {
    ua.StatusCodes.BadMonitoredItemFilterUnsupported,
    ua.StatusCodes.BadMonitoredItemFilterInvalid,
    ua.StatusCodes.BadFilterNotAllowed,
    ua.StatusCodes.BadDeadbandFilterInvalid,
}


class SubscriptionLost(ua.UaError):  # type: ignore[misc]  # asyncua has no types for mypy here
    """The server has ended the subscription, or what it sends no longer fits it."""


def after(number: int) -> int:
    """The sequence number that follows (OPC 10000-4 §7.8)."""
    return 1 if number >= _SEQUENCES else number + 1


def missing(last: int, received: int) -> list[int] | None:
    """Sequence numbers between the last one seen and the one received; None where the received one is an old one."""
    distance = (received - after(last)) % _SEQUENCES
    if distance > _SEQUENCES // 2:
        return None
    numbers: list[int] = []
    number = after(last)
    while number != received and len(numbers) <= REPUBLISH_MAX:
        numbers.append(number)
        number = after(number)
    return numbers


class Subscription:
    """Monitored items of all subscribed `items`; handle i is items[i]. `absent`: handles the server does not have."""

    def __init__(self, session: Session, items: Sequence[Item], memory: Memory, intake: Intake) -> None:
        self._session = session
        self._config: Opcua = session.config
        self._items = items
        self._memory = memory
        self._intake = intake
        self._id = 0
        self._item_ids = [0] * len(items)  # 0: none
        self._publishing_ms = self._config.publishing_s * 1000
        self._keepalive_count = 1
        self._outages = 0  # times in which nobody asked, so that the server's queues may have overflowed
        self._made_up = 0  # so many of them: what the server had kept has come
        self.absent: dict[int, int] = {}  # handle → status
        self.suspicious = asyncio.Event()  # something changed on the server: look at all items now

    async def create(self) -> None:
        """Make the subscription and its items on the server. Raises TROUBLE."""
        wanted_s = self._config.publishing_s
        request = ua.CreateSubscriptionRequest()
        request.Parameters.RequestedPublishingInterval = wanted_s * 1000
        request.Parameters.RequestedMaxKeepAliveCount = max(1, round(self._config.keepalive_s / wanted_s))
        request.Parameters.RequestedLifetimeCount = max(10, round(LIFETIME_S / wanted_s))
        request.Parameters.MaxNotificationsPerPublish = NOTIFICATIONS_MAX
        request.Parameters.PublishingEnabled = True
        made = (await self._session.call(request, ua.CreateSubscriptionResponse)).Parameters
        self._id = made.SubscriptionId
        self._publishing_ms = made.RevisedPublishingInterval
        self._keepalive_count = made.RevisedMaxKeepAliveCount
        self._memory.keep(self._resumable())  # before the items: a subscription must not be forgotten
        await self.monitor([i for i, item in enumerate(self._items) if not item.cyclic])

    async def take_over(self, resumable: Resumable) -> bool:
        """Go on with an earlier process's subscription where the server has it and every item of it."""
        self._id = resumable.subscription
        self._item_ids = list(resumable.item_ids)
        self._intake.queue_sizes = list(resumable.queue_sizes)
        self._publishing_ms = resumable.publishing_ms
        self._keepalive_count = resumable.keepalive_count
        self.absent = {
            i: ua.StatusCodes.BadNodeIdUnknown
            for i, item in enumerate(self._items)
            if not item.cyclic and not self._item_ids[i]
        }
        try:
            for chunk in chunks([n for n in self._item_ids if n], self._session.monitor_max):
                request = ua.SetMonitoringModeRequest()
                request.Parameters.SubscriptionId = self._id
                request.Parameters.MonitoringMode = ua.MonitoringMode.Reporting
                request.Parameters.MonitoredItemIds = list(chunk)
                results = (await self._session.call(request, ua.SetMonitoringModeResponse)).Parameters.Results
                if len(results) != len(chunk) or not all(status.is_good() for status in results):
                    return False
        except ua.UaStatusCodeError as error:
            log.info("the server no longer has our subscription (%s)", describe(error))
            return False
        self._outages += 1
        self._memory.keep(self._resumable())
        return True

    async def delete(self, subscription: int) -> None:
        """Delete a subscription of ours on the server."""
        await self._session.client.uaclient.delete_subscriptions([subscription])

    async def monitor(self, handles: Sequence[int]) -> None:
        """(Re)create the monitored items of these handles; those the server refuses are `absent` afterwards."""
        old = [self._item_ids[i] for i in handles if self._item_ids[i]]
        for chunk in chunks(old, self._session.monitor_max):
            remove = ua.DeleteMonitoredItemsParameters(SubscriptionId=self._id, MonitoredItemIds=list(chunk))
            await self._session.client.uaclient.delete_monitored_items(remove)
        refused = await self._create_items(handles, with_filter=True)
        again = [i for i, status in refused.items() if status in _FILTER_REFUSED]
        if again:
            log.warning(
                "%s (and %d more): the server refuses the data change filter",
                self._items[again[0]].node,
                len(again) - 1,
            )
            refused |= dict.fromkeys(again, 0) | await self._create_items(again, with_filter=False)
        self._tell_short_queues(handles)
        for handle in handles:
            self.absent.pop(handle, None)
        self.absent |= {i: status for i, status in refused.items() if status}
        self._tell_refused()
        self._memory.keep(self._resumable())

    async def run(self) -> None:
        """Publish for ever. Raises TROUBLE."""
        self._tick(time.monotonic())
        try:
            await self._run()
        finally:
            self._next_tick.cancel()

    def _tick(self, last_s: float) -> None:
        """See whether we stood still. A plain callback, so that it runs before anybody sees what came meanwhile."""
        now_s = time.monotonic()
        if now_s - last_s > TICK_S + STANDSTILL_S:
            self._outages += 1
        self._next_tick = asyncio.get_running_loop().call_later(TICK_S, self._tick, now_s)

    async def _run(self) -> None:
        acknowledge: list[int] = []
        while True:
            asked = self._outages
            answer = await self._publish(acknowledge)
            if answer is None:
                continue
            if answer.subscription != self._id:
                raise SubscriptionLost(
                    f"the server publishes for subscription {answer.subscription}, ours is {self._id}"
                )
            began_s = time.monotonic()
            await self._receive(answer, asked)
            if time.monotonic() - began_s > self._publishing_ms / 1000:
                self._outages += 1  # Kafka made us wait, and the server had nobody to publish to meanwhile
            processed = [n for n in answer.available if missing(self._memory.sequence, n) is None]
            message = answer.notification
            own = [] if message.keep_alive or message.sequence in processed else [message.sequence]
            acknowledge = processed + own

    async def _publish(self, acknowledge: list[int]) -> Published | None:
        request = ua.PublishRequest()
        request.Parameters.SubscriptionAcknowledgements = [
            ua.SubscriptionAcknowledgement(SubscriptionId=self._id, SequenceNumber=n) for n in acknowledge
        ]
        patience_s = self._publishing_ms * self._keepalive_count / 1000 * 1.2 + TIMEOUT_S / 2
        try:
            return opcua_binary.published(await asyncio.wait_for(self._session.request(request, 0), patience_s))
        except ua.uaerrors.BadTimeout:
            return None
        except TimeoutError:
            raise SubscriptionLost(f"no notification and no keep-alive for {patience_s:.1f} s") from None

    async def _receive(self, answer: Published, asked: int) -> None:
        """`asked`: outages before the request. A request of before an outage may have been answered at its beginning,
        so its answer does not show what the queues held at its end."""
        message = answer.notification
        numbers = missing(self._memory.sequence, message.sequence)
        if numbers is None:
            if not message.keep_alive:
                log.info("notification %d came again", message.sequence)
            return
        if numbers:
            await self._make_up(numbers, answer.available)
        await self._take(message, self._outages > self._made_up)
        if 0 < len(message.values) < NOTIFICATIONS_MAX:
            self._made_up = asked
        if not message.keep_alive:
            self._memory.sequence = message.sequence  # also of one without values, which no intake has taken

    async def _take(self, message: Notification, may_have_overflowed: bool) -> None:
        if message.values:
            await self._intake.take(message.values, may_have_overflowed, message.sequence)
        for status in message.status_changes:
            log.warning("the server says of our subscription: %s", status_name(status))
            if status in (ua.StatusCodes.BadTimeout, ua.StatusCodes.GoodSubscriptionTransferred):
                raise SubscriptionLost(status_name(status))
            self.suspicious.set()

    async def _make_up(self, numbers: list[int], available: list[int]) -> None:
        """Republish what was missed, in order; what the server no longer has leaves a hole per item.

        The server put them together when nobody took them, perhaps out of queues that had overflowed.
        """
        held = set(available)
        for number in numbers:
            message = await self._republish(number) if number in held else None
            if message is None:
                log.warning("notification %d is lost", number)
                self._intake.lost("notifications lost")
                continue
            await self._take(message, may_have_overflowed=True)
            self._memory.sequence = number

    async def _republish(self, number: int) -> Notification | None:
        request = ua.RepublishRequest()
        request.Parameters.SubscriptionId = self._id
        request.Parameters.RetransmitSequenceNumber = number
        try:
            message = opcua_binary.republished(await self._session.request(request))
        except (ua.UaStatusCodeError, MalformedAnswer) as error:
            log.warning("notification %d cannot be had again (%s)", number, describe(error))
            return None
        return message if message.sequence == number else None

    async def _create_items(self, handles: Sequence[int], with_filter: bool) -> dict[int, int]:
        """Status per handle that the server refused."""
        refused: dict[int, int] = {}
        for chunk in chunks(handles, self._session.monitor_max):
            request = ua.CreateMonitoredItemsParameters()
            request.SubscriptionId = self._id
            request.TimestampsToReturn = ua.TimestampsToReturn.Both
            request.ItemsToCreate = [_wanted(i, self._items[i], with_filter) for i in chunk]
            results = await self._session.client.uaclient.create_monitored_items(request)
            for handle, result in zip(chunk, results, strict=True):
                good = result.StatusCode.is_good()
                self._item_ids[handle] = result.MonitoredItemId if good else 0
                if good:
                    self._intake.queue_sizes[handle] = max(1, result.RevisedQueueSize)
                else:
                    refused[handle] = result.StatusCode.value
        return refused

    def _tell_refused(self) -> None:
        """Items that the server has and does not let us subscribe: nothing comes of them, and nothing else says so."""
        nodes = defaultdict(list)
        for handle, status in sorted(self.absent.items()):
            if status not in GONE:
                nodes[status_name(status)].append(self._items[handle].node)
        if nodes:
            words = (f"{names[0]} (and {len(names) - 1} more): {status}" for status, names in nodes.items())
            HEALTH.ill(PART, f"{self._config.address} refuses {'; '.join(words)}")
        else:
            HEALTH.well(PART, "none is refused")

    def _tell_short_queues(self, handles: Sequence[int]) -> None:
        sizes = self._intake.queue_sizes
        short = [i for i in handles if self._item_ids[i] and sizes[i] < self._items[i].queue_size]
        if short:
            log.warning(
                "%s (and %d more): the server queues %d values, not %d: what changes while nobody asks is lost sooner",
                self._items[short[0]].node,
                len(short) - 1,
                sizes[short[0]],
                self._items[short[0]].queue_size,
            )

    def _resumable(self) -> Resumable:
        token, nonce = self._session.credentials
        return Resumable(
            url=self._config.address,
            token=token,
            nonce=nonce,
            subscription=self._id,
            item_ids=tuple(self._item_ids),
            queue_sizes=tuple(self._intake.queue_sizes),
            publishing_ms=self._publishing_ms,
            keepalive_count=self._keepalive_count,
        )


def _wanted(handle: int, item: Item, with_filter: bool) -> ua.MonitoredItemCreateRequest:
    wanted = ua.MonitoredItemCreateRequest()
    wanted.ItemToMonitor = ua.ReadValueId(NodeId=item.node_id, AttributeId=ua.AttributeIds.Value)
    wanted.MonitoringMode = ua.MonitoringMode.Reporting
    wanted.RequestedParameters = ua.MonitoringParameters(
        ClientHandle=handle,
        SamplingInterval=math.floor(item.interval_s * 1000),
        Filter=_filter(item.deadband) if with_filter else None,
        QueueSize=item.queue_size,
        DiscardOldest=True,
    )
    return wanted


def _filter(deadband: float | None) -> ua.DataChangeFilter:
    kind = ua.DeadbandType.None_ if deadband is None else ua.DeadbandType.Absolute
    return ua.DataChangeFilter(
        Trigger=ua.DataChangeTrigger.StatusValueTimestamp, DeadbandType=int(kind), DeadbandValue=deadband or 0.0
    )
