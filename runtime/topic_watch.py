"""Looks, while the process works, whether it still works with the right topics, and whether they are as they must be.

Another generation of topics is at work after a rescale: the process leaves to be started on it. And anybody with the
right to do so can add partitions to a topic of a running system. Nothing is misplaced meanwhile, because every record
names its partition (`runtime/partitions.py`), but nobody could go on for long: groups would spread over partitions that
have no changelog. So the process leaves, says what to do, and is not started again.
"""

import logging
import threading
from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError, KafkaException

from runtime.config import Kafka
from runtime.exit_codes import BAD_CONFIGURATION, RESTART_ME
from runtime.generations import PlanReader, forced
from runtime.health import Health
from runtime.kafka import TopicMismatch, check_found
from runtime.watchdog import leave
from schemas.generations import Plan, PlanError, topic_name

log = logging.getLogger(__name__)

EVERY_S = 5.0
FIRST_S = 0.05  # until it is known which topics are at work
AGAIN_S = 1.0  # after no answer
ANSWER_S = 5.0
PART = "kafka"


class TopicWatch:
    """Asks through `client`, which the process has anyway, so it costs a request every EVERY_S; through a client of its
    own as soon as there is a topic of generations, since a connector's does not live while Kafka refuses its records.

    `health`: where to say whether Kafka answers; None where another part of the process knows that better.
    `on_at_work`: told once, in a thread of the watch, which topics are at work; for who does not know when it begins.
    Without it, `kafka` is what is at work.
    """

    def __init__(
        self,
        kafka: Kafka,
        client: Any,
        health: Health | None = None,
        leave: Callable[[str, int], object] = leave,
        on_at_work: Callable[[Kafka], object] | None = None,
    ) -> None:
        self._kafka, self._client, self._health, self._leave = kafka, client, health, leave
        self._on_at_work = on_at_work
        self._at_work: Kafka | None = None if on_at_work else kafka
        self._forced = forced(kafka) is not None
        self._reader: PlanReader | None = None
        self._told_to_wait = False
        self._pause_s = FIRST_S
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="topic-watch", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Look no longer."""
        self._stopping.set()

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.look()
            self._stopping.wait(self._pause_s)

    def look(self) -> None:
        """One look. Leaves with RESTART_ME where other topics are at work now, with BAD_CONFIGURATION where one of
        ours has another number of partitions.
        """
        try:
            found = (self._reader or self._client).list_topics(timeout=ANSWER_S).topics
            self._follow(found)
            check_found(self._at_work or self._kafka, found)
            self._pause_s = EVERY_S
        except (TopicMismatch, PlanError) as error:
            self._leave(str(error), BAD_CONFIGURATION)
        except KafkaException as error:
            self._pause_s = AGAIN_S if self._at_work else FIRST_S
            self._forget_reader()
            if self._health is not None and not self._stopping.is_set():
                said = error.args[0]
                self._health.ill(PART, f"{self._kafka.address}: {said.str() if isinstance(said, KafkaError) else said}")
        else:
            if self._health is not None:
                self._health.well(PART)

    def _follow(self, found: Mapping[str, Any]) -> None:
        plan = self._plan(found)
        now = self._at_work or self._kafka
        if plan is not None:
            now = self._kafka.at(plan.active)
            self._tell_to_wait(plan)
        if self._at_work is None:
            self._at_work = now
            if self._on_at_work is not None:
                self._on_at_work(now)
        elif now.prefix != self._at_work.prefix:
            self._leave(f"{now.prefix}.* with {now.partitions} partitions are the topics at work now", RESTART_ME)

    def _plan(self, found: Mapping[str, Any]) -> Plan | None:
        """None: nothing is known that would change anything."""
        if self._forced or topic_name(self._kafka.configured_prefix) not in found:
            return None
        if self._reader is None:
            self._reader = PlanReader(self._kafka)
        return self._reader.newest(ANSWER_S)

    def _forget_reader(self) -> None:
        """The next one has passwords and certificates as they are then."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def _tell_to_wait(self, plan: Plan) -> None:
        waits = plan.phase in ("switching", "returning")
        if waits and not self._told_to_wait and self._on_at_work is not None:
            log.warning("a rescale is switching topics: Kafka refuses records until it is over, they are kept")
        self._told_to_wait = waits
