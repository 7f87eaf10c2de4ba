"""Waiting, while a mirror copies what comes: until nothing more comes, until the stages of the target have done it."""

import time
from collections.abc import Callable, Iterable, Sequence

from confluent_kafka import ConsumerGroupTopicPartitions
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient

from cli.lag import INPUTS
from replay.mirror import Mirror
from replay.sources.topic import Reader
from runtime.config import Kafka
from runtime.kafka import client_settings
from schemas.generations import Marks, Plan
from schemas.topics import RAW, Topic, app_id

#: Stages in the order of the flow, each with what it reads.
STAGES = {stage: INPUTS[stage][0] for stage in ("validation", "estimation", "twin")}
QUIET_S = 2.0  # nothing came for so long after Kafka was told to refuse it: it does refuse it
ANSWER_S = 30.0

Tell = Callable[[str], None]


class Following:
    """Lets the mirror copy while something is waited for. `reader` reads topics of both generations. Close it."""

    def __init__(
        self, old: Kafka, new: Kafka, plan: Plan, mirror: Mirror, tend: Callable[[], None], show: Tell
    ) -> None:
        self.old, self.new = old, new
        self._mirror, self._tend, self._show = mirror, tend, show
        self.phase = plan.phase  # for people
        self._admin = AdminClient(client_settings(new))
        self.reader = Reader(new)  # one: to close a connection may take a second, in which no reading is taken

    def close(self) -> None:
        """Disconnect."""
        self.reader.close()

    def ends(self, topics: Iterable[Topic], new: bool = False) -> dict[str, tuple[int, ...]]:
        """Where topics of the one or the other generation end now."""
        prefix = (self.new if new else self.old).prefix
        spans = {topic.name: self.reader.spans(topic.full_name(prefix)) for topic in topics}
        return {name: tuple(end for _, end in found.values()) for name, found in spans.items()}

    def _now(self, topics: Iterable[Topic]) -> dict[str, tuple[int, ...]]:
        return {topic.name: self._mirror.ends(topic) for topic in topics}

    def until_quiet(self, topics: Sequence[Topic]) -> None:
        """Until nothing came to these topics for QUIET_S and all of it is copied. Kafka refuses what would come."""
        ends, since_s = self._now(topics), time.monotonic()
        while time.monotonic() - since_s < QUIET_S or self._left(topics, ends):
            self._copy(f"{self._left(topics, ends)} records to copy")
            now = self._now(topics)
            if now != ends:
                ends, since_s = now, time.monotonic()
        self._mirror.flush()

    def until_caught_up(self) -> None:
        """Until the stages have acknowledged all that comes of what is in the old generation now."""
        ends = self._now((RAW,))
        while left := self._left((RAW,), ends):
            self._copy(f"{left} records to copy")
        self._mirror.flush()
        for stage, topic in STAGES.items():
            upto = self.ends((topic,), new=True)[topic.name]
            while waiting := self._waiting(stage, topic, upto):
                self._copy(f"{stage}: {waiting} frames to go")

    def _copy(self, what: str) -> None:
        self._mirror.step()
        self._tend()
        self._show(f"{self.phase}: {what}, {self._mirror.copied} copied")

    def _left(self, topics: Iterable[Topic], ends: Marks) -> int:
        return sum(self._mirror.behind(topic, ends[topic.name]) for topic in topics)

    def _waiting(self, stage: str, topic: Topic, upto: Sequence[int]) -> int:
        """Records before these ends that a stage of the new generation has not acknowledged."""
        name = topic.full_name(self.new.prefix)
        asked = ConsumerGroupTopicPartitions(
            app_id(stage, self.new.prefix), [Place(name, p) for p in range(self.new.partitions)]
        )
        found = next(iter(self._admin.list_consumer_group_offsets([asked]).values())).result(ANSWER_S)
        return sum(max(0, upto[place.partition] - max(0, place.offset)) for place in found.topic_partitions)
