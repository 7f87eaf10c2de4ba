"""One MQTT session over changing connections: connects, subscribes, and comes back with backoff, for ever.

Every attempt is a new client, so files of certificates and passwords are read anew and nothing of a dead connection
is left. Why there is no connection is visible in `Health`. May not know Kafka or what a payload means.
"""

import contextlib
import logging
import select
import socket
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from connectors.mqtt_client import Connection, Message, client_id
from connectors.mqtt_memory import Filters
from runtime.config import Mqtt
from runtime.health import Health
from runtime.metrics import RETRIES

log = logging.getLogger(__name__)

PART = "mqtt"
TAKEN_OVER = 0x8E  # reason code of MQTT 5
DELAY_MIN_S = 1.0
DELAY_MAX_S = 60.0
STABLE_S = 10.0  # a connection that lasted so long was a good one: the next attempt comes soon
#: Messages that come within so short a time are received together, which saves waking up for each of them ...
GATHER_S = 0.01
BUSY = 32  # ... unless so many came the last time: then there is no time to lose


class Session:
    """Call `poll` all the time, from one thread; `wake` may be called from any.

    `resumes`: the broker should have the session of an earlier process. Where messages may be lost that it should have
    kept for us, `on_loss` is called with the cause, once the broker keeps and sends them again. `filters`: what it
    subscribed, so that it takes back what is no longer configured.
    """

    def __init__(
        self, config: Mqtt, health: Health, on_loss: Callable[[str], None], resumes: bool, filters: Filters
    ) -> None:
        self._config = config
        self._filters = filters
        self._health = health
        self._on_loss = on_loss
        self._loss = ""  # what may have cost messages since the last subscription
        self._connection: Connection | None = None
        self._attempt: threading.Thread | None = None
        self._failure = ""
        self._delay_s = 0.0
        self._retry_at_s = 0.0
        self._up_since_s: float | None = None
        self._subscribe_at_s: float | None = None
        self._misc_at_s = 0.0
        self._had_session = resumes
        self._wakes, self._waker = socket.socketpair()
        self._wakes.setblocking(False)
        self._waker.setblocking(False)
        self._awake = False
        self._busy = False
        self.up = False

    def poll(self, timeout_s: float) -> None:
        """Wait for messages, at most so long, and keep connection and subscriptions alive."""
        now_s = time.monotonic()
        connection = self._connection
        if connection is None:
            self._wait(None, min(timeout_s, self._try_to_connect(now_s)))
            return
        try:
            self._wait(connection, timeout_s)
            if now_s >= self._misc_at_s:
                self._misc_at_s = now_s + 1.0
                connection.loop_misc()
            if self._subscribe_at_s is not None and now_s >= self._subscribe_at_s:
                self._subscribe_at_s = None
                connection.subscribe_all()
        except Exception as error:  # paho takes broken packets for what they are not
            log.exception("the connection to %s is given up", self._peer)
            self._failure = f"connection to {self._peer} given up: {error!r}"
            connection.abandon()
        if connection.socket() is None:
            self._lost()

    def next(self) -> Message | None:
        """The next message of the present connection, if one has arrived.

        A broker should not send more than the receive maximum allows, but mosquitto 2.0 does. What the caller does not
        fetch waits here, then in the socket.
        """
        return None if self._connection is None else self._connection.next()

    def acknowledge(self, messages: Sequence[Message]) -> None:
        """Acknowledge in this order what came on the present connection; the broker sends the rest again."""
        mids = [message.mid for message in messages if message.connection is self._connection and message.mid]
        if self._connection is not None and mids:
            self._connection.acknowledge(mids)

    def wake(self) -> None:
        """Let `poll` return soon."""
        if not self._awake:
            self._awake = True
            with contextlib.suppress(BlockingIOError):
                self._waker.send(b"w")

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what waits to be sent, and disconnect; the broker keeps the session."""
        connection, self._connection = self._connection, None
        end_s = time.monotonic() + timeout_s
        if connection is not None:
            connection.disconnect()
            while (sock := connection.socket()) is not None and connection.want_write() and time.monotonic() < end_s:
                select.select([], [sock], [], 0.1)
                connection.loop_write()
        self.up = False
        self._wakes.close()
        self._waker.close()

    def _wait(self, connection: Connection | None, timeout_s: float) -> None:
        readers: list[Any] = [self._wakes]
        writers: list[Any] = []
        if connection is not None:
            sock = connection.socket()
            if sock is None:
                return
            readers += [sock] if connection.has_room else []
            writers += [sock] if connection.want_write() else []
            timeout_s = 0.0 if connection.has_room and connection.has_unread else timeout_s
        readable, writable, _ = select.select(readers, writers, [], max(0.0, timeout_s))
        if self._wakes in readable:
            self._wakes.recv(64)
            self._awake = False  # not before: the byte of a call in between would be taken, and no other one be sent
        if connection is None:
            return
        if writable:
            connection.loop_write()
        if connection.has_room and (connection.socket() in readable or connection.has_unread):
            if not self._busy:
                time.sleep(GATHER_S)
            connection.receive()
            self._busy = len(connection.arrived) >= BUSY

    def _try_to_connect(self, now_s: float) -> float:
        """Start an attempt when it is time. Returns for how long there is nothing to do."""
        if self._attempt is not None:
            return DELAY_MAX_S
        if now_s < self._retry_at_s:
            return self._retry_at_s - now_s
        connection = Connection(self._config)
        connection.on_connect = self._on_connect
        connection.on_subscribe = self._on_subscribe
        connection.on_unsubscribe = self._on_unsubscribe
        connection.on_disconnect = self._on_disconnect
        self._failure = ""
        self._attempt = threading.Thread(target=self._open, args=(connection,), name="mqtt-connect", daemon=True)
        self._attempt.start()
        return DELAY_MAX_S

    def _open(self, connection: Connection) -> None:
        """The attempt's thread: name resolution, TCP and TLS may take seconds while heartbeats must go on."""
        try:
            connection.open()
        except Exception as error:  # whatever it is, it is tried again
            self._later(f"cannot connect to {self._peer}: {error}")
        else:
            self._connection = connection
        self._attempt = None
        self.wake()

    def _lost(self) -> None:
        failure = self._failure or f"connection to {self._peer} lost"
        if self._up_since_s is not None:
            if time.monotonic() - self._up_since_s > STABLE_S:
                self._delay_s = 0.0
            else:  # mosquitto 2.0 gives the session to another client without a word to the first
                failure += f" in less than {STABLE_S:g} s; does another client use the id {client_id(self._config)}?"
        self._connection = self._up_since_s = self._subscribe_at_s = None
        self.up = False
        self._later(failure)

    def _later(self, reason: str) -> None:
        self._health.ill(PART, reason)
        self._retry_at_s = time.monotonic() + self._next_delay_s()

    def _next_delay_s(self) -> float:
        RETRIES.labels(PART).inc()
        self._delay_s = min(DELAY_MAX_S, max(DELAY_MIN_S, 2 * self._delay_s))
        return self._delay_s

    @property
    def _peer(self) -> str:
        host, port = self._config.address
        return f"{host}:{port}"

    def _on_connect(self, client: Any, _data: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._failure = f"{self._peer} refused the connection: {reason}"
            return
        self._up_since_s = time.monotonic()
        if self._had_session and not flags.session_present:
            log.warning("%s has lost the session, and with it messages that were not delivered yet", self._peer)
            self._loss = "MQTT session lost"
        elif self._had_session and self._config.qos == 0:
            log.warning("%s kept nothing while there was no connection: the subscription has QoS 0", self._peer)
            self._loss = self._loss or "MQTT session lost"
        self._had_session = True
        wanted = self._config.filters
        gone = [text for text in self._filters.load() if text not in wanted] if flags.session_present else []
        self._filters.save([*wanted, *gone])
        client.subscribe_all()
        if gone:  # after the new ones, which may have to go on for them without a hole
            client.unsubscribe(gone)

    def _on_subscribe(self, _client: Any, _data: Any, _mid: int, reasons: Sequence[Any], _properties: Any) -> None:
        refused = [
            f"{text} ({reason})"
            for text, reason in zip(self._config.filters, reasons, strict=False)
            if reason.is_failure or reason.value < self._config.qos
        ]
        if not refused:
            self.up = True
            self._health.well(PART)
            if self._loss:  # only now: what is published before the broker has the subscription is lost, too
                self._on_loss(self._loss)
                self._loss = ""
            return
        self.up = False
        self._health.ill(PART, f"{self._peer} refused to subscribe {', '.join(refused)}")
        self._subscribe_at_s = time.monotonic() + self._next_delay_s()

    def _on_unsubscribe(self, _client: Any, _data: Any, _mid: int, reasons: Sequence[Any], _properties: Any) -> None:
        refused = [str(reason) for reason in reasons if reason.is_failure]
        if refused:
            log.warning("%s refused to unsubscribe (%s); tried again later", self._peer, ", ".join(refused))
            return
        self._filters.save(self._config.filters)
        log.info("%s has no subscriptions any more but those configured", self._peer)

    def _on_disconnect(self, _client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
        if reason.value == TAKEN_OVER:
            log.warning("%s gave the session to another client of the same id, and with it messages", self._peer)
            self._loss = "MQTT session taken over"
        self._failure = self._failure or f"connection to {self._peer} lost: {reason}"
