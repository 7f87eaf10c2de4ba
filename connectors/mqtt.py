"""The MQTT connector: messages become readings, readings frames, and a message is acknowledged when Kafka has it.

One thread does all of that, so an exception anywhere ends in one place: the process leaves without acknowledging.
Only connecting and the way to Kafka run beside it. At most `receive_maximum` readings are unacknowledged; frames
are closed early when that many begin to wait, so the linger never limits the rate. What is behind the last confirmed
message the broker keeps, and sends again after a crash. Validation drops what came twice: it remembers as many
readings per tag as may be unacknowledged. One batch with more readings than that is taken all the same, alone; when
such a batch is sent again, its readings are not recognised (decision 0006). With QoS 0 the broker keeps nothing: while
Kafka is away the disk spool does, and a time without connection is a gap.
"""

import logging
import signal
import time
from collections import deque
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from connectors.delivery import Delivery, QueueFull, Spooling
from connectors.framer import Framer, Reading
from connectors.mqtt_client import Message
from connectors.mqtt_memory import Filters, Memory
from connectors.mqtt_session import Session
from connectors.mqtt_silence import Silence
from connectors.mqtt_topics import Names, TopicError, names_in
from connectors.payload import PayloadError, parse
from connectors.reduction import Reducer
from runtime.config import Mqtt, Plant
from runtime.exit_codes import BAD_CONFIGURATION, OK
from runtime.health import HEALTH
from runtime.metrics import REDUCED
from runtime.watchdog import Watchdog, leave
from schemas.frames import Gap
from schemas.quality import Mark
from schemas.records import CUT_OFF, UNTIMED, Rejected

log = logging.getLogger(__name__)

STAGE = "connector.mqtt"
IDLE_S = 1.0  # the longest wait: what happens by the clock is looked at so often
CLOSE_S = 10.0
KEPT_BYTES_MAX = 64 * 1024  # of a payload that is too large
TOPICS_REMEMBERED = 100_000
NAMELESS = Names("", "")


class Understood(NamedTuple):
    """What a message says. `remark`: why it goes to `rejected` (although, for a batch, some of it was readable)."""

    message: Message
    names: Names
    readings: list[Reading]
    remark: str | None

    @property
    def weight(self) -> int:
        """How many readings it makes wait, at least 1; QoS 0 is never acknowledged."""
        return max(1, len(self.readings)) if self.message.mid else 0


def run(plant: Plant, connector_id: str) -> int:
    """Run one MQTT connector until SIGTERM or SIGINT. Returns an exit code."""
    found = [c for c in plant.mqtt if c.id == connector_id]
    if not found:
        log.error("no MQTT connector %r, there are %s", connector_id, ", ".join(c.id for c in plant.mqtt) or "none")
        return BAD_CONFIGURATION
    connector = Connector(plant, found[0])
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: connector.stop())
    try:
        connector.run()
    except QueueFull:  # only when told to stop
        log.warning("stopped while Kafka's queue was full; the broker keeps what is not acknowledged")
    except Exception as error:
        log.exception("the connector failed")
        leave(f"{STAGE}: {error!r}")
    return OK


class Connector:
    """All parts of one connector process, and the order in which they work."""

    def __init__(self, plant: Plant, config: Mqtt) -> None:
        self._plant = plant
        self._config = config
        start_ns = time.time_ns()
        self._framer = Framer(config.id, start_ns, config.framing)
        self._memory = Memory(config.state_dir, config.id, start_ns)
        for asset in self._memory.heard_until_ns:
            self._framer.expect(asset, start_ns)
        spooling = Spooling(directory=config.state_dir, connector_id=config.id, limits=config.spool, drops=True)
        self._delivery = Delivery(plant.kafka, STAGE, HEALTH, spooling if config.qos == 0 else None)
        filters = Filters(config.state_dir, config.id)
        resumes = bool(self._memory.heard_until_ns)
        self._session = Session(config, HEALTH, self._gap_for_each, resumes, filters)
        self._silence = Silence(config, HEALTH)
        self._reducer = Reducer(plant)
        self._has_units = any("unit" in values for values in plant.tags.values())
        self._names: dict[bytes, Names] = {}
        self._unacknowledged: deque[Message] = deque()
        self._unsafe: list[Message] = []  # of any QoS, with readings that are only in memory
        self._waiting = 0  # readings of unacknowledged messages
        self._held: Understood | None = None  # the next message, which would make that too many
        self._since_flush = 0
        self._confirmed: deque[list[Any]] = deque()  # filled by Kafka's thread
        self._looked_at_ns = 0
        self._watchdog = Watchdog(HEALTH, patience_s=config.watchdog_s)
        self._stopping = False

    def run(self) -> None:
        """Work until `stop`, then bring what was received to Kafka, acknowledge it and disconnect."""
        self._watchdog.start()
        while not self._stopping:
            HEALTH.beat()
            self._session.poll(self._timeout_s())
            self._take_what_fits()
            self._framer.connected(self._session.up)
            self._send_due(flush=self._is_pressing())
            self._acknowledge()
        for reading in self._reducer.overdue(0, everything=True):
            self._framer.add(reading, time.time_ns())
        self._send_due(flush=True)
        self._delivery.close(CLOSE_S)
        self._acknowledge()
        self._session.close()
        self._save(time.time_ns(), at_once=True)
        self._watchdog.stop()

    def stop(self) -> None:
        """Make `run` return soon; for signal handlers and other threads."""
        self._stopping = True
        self._delivery.stop_waiting()
        self._session.wake()

    def _timeout_s(self) -> float:
        if self._held is not None and self._fits(self._held):
            return 0.0
        due_ns = self._framer.next_due_ns()
        return IDLE_S if due_ns is None else min(IDLE_S, max(0.0, (due_ns - time.time_ns()) / 1e9))

    def _fits(self, understood: Understood) -> bool:
        return not self._waiting or self._waiting + understood.weight <= self._config.receive_maximum

    def _take_what_fits(self) -> None:
        """Take messages in order, until there are no more or the next one must wait for acknowledgements."""
        understood, self._held = self._held, None
        while True:
            if understood is None:
                message = self._session.next()
                if message is None:
                    return
                understood = self._understand(message)
            if not self._fits(understood):
                self._held = understood
                return
            self._take(understood)
            understood = None

    def _understand(self, message: Message) -> Understood:
        names, limit = NAMELESS, self._config.payload_bytes_max
        try:
            names = self._names_of(message.topic)
            if message.size_bytes > limit:
                kept = message.payload = message.payload[:KEPT_BYTES_MAX]
                what = f"{CUT_OFF}{message.size_bytes} bytes, allowed are {limit}; the first {len(kept)} are kept"
                return Understood(message, names, [], what)
            readings, remark = parse(message.payload, *names, message.arrival_time_ns)
        except (TopicError, PayloadError) as error:
            return Understood(message, names, [], str(error))
        if message.retained and any(reading.mark & Mark.ARRIVAL_TIME_USED for reading in readings):
            why = f"{UNTIMED}: nobody knows when it was measured"
            return Understood(message, names, [], why)
        return Understood(message, names, readings, remark)

    def _take(self, understood: Understood) -> None:
        message, names, readings, remark = understood
        if self._silence.ended():
            self._gap_for_each("nothing came by MQTT")
        if message.mid:
            unacknowledged = self._unacknowledged
            if unacknowledged and unacknowledged[-1].connection is not message.connection:
                unacknowledged.clear()  # nobody can acknowledge those any more; the broker sends them again
                self._waiting = 0
            unacknowledged.append(message)
            message.weight = understood.weight
            self._waiting += message.weight
            self._since_flush += message.weight
        if remark is not None:
            self._reject(message, remark, names)
        for reading in readings:
            self._add(reading, message)
        if names is not NAMELESS:
            message.asset = names.asset
            message.since_ns = self._memory.hear(names.asset, message.arrival_time_ns, readings)
            if message.open_parts:
                self._unsafe.append(message)
        message.payload = b""

    def _add(self, reading: Reading, message: Message) -> None:
        if self._has_units and not reading.unit:
            reading = replace(reading, unit=self._plant.tag(reading.asset, reading.tag).unit or "")
        kept = self._reducer.keep(reading)
        for other in kept:
            # One that was held back belongs to a message that has been acknowledged without it.
            token = message if other is reading else None
            message.open_parts += other is reading
            self._framer.add(other, message.arrival_time_ns, token)
        if not kept:
            REDUCED.inc()

    def _names_of(self, topic: bytes) -> Names:
        found = self._names.get(topic)
        if found is None:
            if len(self._names) >= TOPICS_REMEMBERED:
                self._names.clear()
            found = self._names[topic] = names_in(topic, self._config.filters)
        return found

    def _reject(self, message: Message, reason: str, names: Names) -> None:
        rejected = Rejected(
            stage=STAGE,
            reason=reason,
            asset=names.asset,
            tag=names.tag,
            topic=message.topic.decode(errors="replace"),
            time_ns=message.arrival_time_ns,
            payload=message.payload,
        )
        message.open_parts += 1
        self._delivery.reject(rejected, partial(self._on_confirmed, [message]))

    def _send_due(self, flush: bool) -> None:
        now_ns = time.time_ns()
        if not 0 <= now_ns - self._looked_at_ns < IDLE_S * 1e9:
            self._looked_at_ns = now_ns
            self._save(now_ns)
            self._silence.look(waits=self._session.up and not self._waiting)
            while self._delivery.losses:
                self._gap_for_all(self._delivery.losses.popleft(), now_ns)
            for reading in self._reducer.overdue(now_ns):
                self._framer.add(reading, now_ns)
        if flush:
            self._since_flush = 0
        for frame, tokens in self._framer.due(now_ns, flush):
            self._delivery.send(frame, partial(self._on_confirmed, tokens))

    def _save(self, now_ns: int, at_once: bool = False) -> None:
        self._unsafe = [message for message in self._unsafe if message.open_parts]
        self._memory.save(now_ns, [(message.asset, message.since_ns) for message in self._unsafe], at_once)

    def _is_pressing(self) -> bool:
        """Whether the broker will soon stop sending for want of acknowledgements, and frames are worth closing."""
        if self._held is not None:
            return self._since_flush > 0
        most = self._config.receive_maximum
        return self._waiting >= max(1, 3 * most // 4) and self._since_flush >= max(1, most // 4)

    def _on_confirmed(self, messages: list[Any]) -> None:
        """Runs in Kafka's thread."""
        if messages:
            self._confirmed.append(messages)
            self._session.wake()

    def _acknowledge(self) -> None:
        while self._confirmed:
            for message in self._confirmed.popleft():
                message.open_parts -= 1
        done = []
        while self._unacknowledged and self._unacknowledged[0].open_parts == 0:
            done.append(self._unacknowledged.popleft())
            self._waiting -= done[-1].weight
        if done:
            self._session.acknowledge(done)

    def _gap_for_each(self, cause: str) -> None:
        """Tell of every asset that from the time of its last message on some may be missing."""
        now_ns = time.time_ns()
        for asset, from_ns in self._memory.heard_until_ns.items():
            gap = Gap(from_ns=from_ns, to_ns=max(from_ns, now_ns), cause=cause)
            self._framer.gap(asset, gap, (), now_ns)

    def _gap_for_all(self, gap: Gap, now_ns: int) -> None:
        for asset in self._memory.heard_until_ns:
            self._framer.gap(asset, gap, (), now_ns)
