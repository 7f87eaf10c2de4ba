"""Looks, while the process works, whether the topics still have the partitions that the configuration says.

Anybody with the right to do so can add partitions to a topic of a running system. Nothing is misplaced meanwhile,
because every record names its partition (`runtime/partitions.py`), but nobody could go on for long: groups would spread
over partitions that have no changelog. So the process leaves, says what to do, and is not started again.
"""

import logging
import threading
from collections.abc import Callable
from typing import Any

from confluent_kafka import KafkaException

from runtime.config import Kafka
from runtime.exit_codes import BAD_CONFIGURATION
from runtime.health import Health
from runtime.kafka import TopicMismatch, check_topics
from runtime.watchdog import leave

log = logging.getLogger(__name__)

EVERY_S = 5.0
ANSWER_S = 5.0
PART = "kafka"


class TopicWatch:
    """Asks through `client`, which the process has anyway, so it costs a request every EVERY_S.

    `health`: where to say whether Kafka answers; None where another part of the process knows that better.
    """

    def __init__(
        self,
        kafka: Kafka,
        client: Any,
        health: Health | None = None,
        leave: Callable[[str, int], object] = leave,
    ) -> None:
        self._kafka, self._client, self._health, self._leave = kafka, client, health, leave
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="topic-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.look()
            self._stopping.wait(EVERY_S)

    def look(self) -> None:
        """One look; leaves with BAD_CONFIGURATION where a topic has another number of partitions."""
        try:
            check_topics(self._kafka, self._client, ANSWER_S)
        except TopicMismatch as error:
            self._leave(str(error), BAD_CONFIGURATION)
        except KafkaException as error:
            if self._health is not None and not self._stopping.is_set():
                self._health.ill(PART, f"{self._kafka.address}: {error.args[0].str()}")
        else:
            if self._health is not None:
                self._health.well(PART)
