"""How far the twin is behind the field, per asset and connector, read off the topic of states while faults strike."""

import contextlib
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from confluent_kafka import OFFSET_END, Consumer, KafkaException, TopicPartition

from runtime.config import Kafka
from runtime.kafka import client_settings
from schemas.codec import DecodeError, decode
from schemas.records import TwinState
from schemas.topics import STATE

#: How often the lag is looked at, in s.
LAG_PERIOD_S = 0.1


class Pulse:
    """Follows the topic from where it ends now. Thread-safe; a broker that is away only makes the lag grow.

    Assets in `ignored` count for nothing: those that a row makes itself and that do not send all the time.
    """

    def __init__(self, kafka: Kafka) -> None:
        self._kafka = kafka
        self.ignored: set[str] = set()
        self._newest_ns: dict[tuple[str, str], int] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="pulse", daemon=True)
        self._thread.start()

    @property
    def sources(self) -> set[tuple[str, str]]:
        """(asset, connector) seen so far."""
        return set(self._newest_ns)

    def newest_s(self, source: str = "") -> float:
        """Arrival time (s since 1970) of the newest frame the twin knows: of the (asset, connector) furthest behind, of
        one connector where it is named. Zero before the first one.
        """
        newest = [
            ns / 1e9
            for (asset, name), ns in list(self._newest_ns.items())
            if source in ("", name) and asset not in self.ignored
        ]
        return min(newest, default=0.0)

    @contextmanager
    def lags_s(self) -> Iterator[list[float]]:
        """The lag of the twin, sampled while the block runs."""
        lags: list[float] = []
        ended = threading.Event()

        def sample() -> None:
            while not ended.wait(LAG_PERIOD_S):
                lags.append(time.time() - self.newest_s())

        thread = threading.Thread(target=sample, name="lags", daemon=True)
        thread.start()
        try:
            yield lags
        finally:
            ended.set()
            thread.join()

    def forget(self) -> None:
        """What has been seen counts no more, as when the assets change."""
        self._newest_ns.clear()

    def close(self) -> None:
        """Follow no longer."""
        self._ending.set()
        self._thread.join(10)

    def _follow(self) -> None:
        quiet = logging.getLogger("pulse.librdkafka")
        quiet.setLevel(logging.CRITICAL)
        settings = client_settings(self._kafka) | {"reconnect.backoff.max.ms": 500, "auto.offset.reset": "latest"}
        # No group is used: one that has to ask a young broker for its coordinator may wait for ever.
        settings |= {"group.id": "pulse", "enable.auto.commit": False}
        consumer = Consumer(settings, logger=quiet)
        topic = STATE.full_name(self._kafka.prefix)
        consumer.assign([TopicPartition(topic, p, OFFSET_END) for p in range(self._kafka.partitions)])
        while not self._ending.is_set():
            with contextlib.suppress(KafkaException):
                for message in consumer.consume(500, 0.1):
                    if message.error() is None:
                        self._take(message.value())
        consumer.close()

    def _take(self, value: bytes | None) -> None:
        with contextlib.suppress(DecodeError):
            state = decode(value or b"")
            if isinstance(state, TwinState) and state.asset not in self.ignored:
                key = (state.asset, state.source)
                self._newest_ns[key] = max(self._newest_ns.get(key, 0), state.clock_ns)
