"""Gives a running system another number of partitions: builds the next generation of topics beside the one at work,
proves it equal, and switches. What each phase is for: docs/decisions/0012-rescale.md.

Every phase is recorded before its work begins, and its work may be begun again, so a run that is killed at any point is
resumed by the next one, or rolled back. The system at work is touched by one thing only: while it is switched, Kafka
refuses new records in its raw topic, which to connectors is the same as Kafka being away.
"""

import re
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from typing import Protocol

from confluent_kafka import KafkaException
from confluent_kafka import TopicPartition as Place
from confluent_kafka.admin import AdminClient

from cli.following import STAGES, Following, Tell
from cli.moving import Sender, acknowledged, all_ends, copy_history, history_reader, move_states
from replay.compare.agreement import OUTPUTS, Range, agree
from replay.mirror import FOLLOWED, Mirror, ends_of
from runtime import acl, generations
from runtime.config import Kafka
from runtime.kafka import client_settings, create_topics, set_largest_record, watermarks
from schemas.generations import Generation, Marks, Plan
from schemas.topics import (
    ALERTS,
    CHANGELOGS,
    MAX_RECORD_BYTES,
    RAW,
    REJECTED,
    TOPICS,
    Topic,
    app_id,
)

ANSWER_S = 30.0

FailPoint = Callable[[str], None]


class RescaleError(RuntimeError):
    """It did not come about, and why. The system at work goes on as it was."""


class Workers(Protocol):
    """The stages of the generation that is being built."""

    def start(self, generation: Generation) -> None:
        """Start them."""

    def tend(self) -> None:
        """Start again those that ended and want to be; called a few times per second. Raises RescaleError."""

    def stop(self) -> None:
        """End them in their regular way; nothing where none runs."""


class Rescale:
    """One run. `kafka`: as configured. `tell` gets a line for people for each thing that is done, `show` what is being
    waited for, several times per second. `fail_point(name)` is for tests: it is told what has just been done.
    """

    def __init__(
        self, kafka: Kafka, workers: Workers, tell: Tell, show: Tell, fail_point: FailPoint = lambda _: None
    ) -> None:
        self._kafka, self._workers = kafka, workers
        self._tell, self._show, self._fail_point = tell, show, fail_point
        self._admin = AdminClient(client_settings(kafka))

    def run(self, partitions: int) -> Plan:
        """Bring the system to this number of partitions, or go on with what an earlier run began.

        Raises PlanError, RescaleError, CopyFailed, KafkaException and what a mirror raises.
        """
        plan = self._plan()
        if plan.target is None or plan.target.partitions != partitions or plan.phase not in ("verifying", "switching"):
            plan = self._build(plan.build(self._kafka.configured_prefix, partitions))
        else:
            self._tell(f"going on with {plan.target}, {plan.phase}")
        assert plan.target is not None
        old, new = self._kafka.at(plan.active), self._kafka.at(plan.target)
        with closing(Mirror(old, new, plan.read_from, plan.written_from)) as mirror:
            self._workers.start(plan.target)
            try:
                with closing(Following(old, new, plan, mirror, self._workers.tend, self._show)) as following:
                    if plan.phase == "verifying":
                        plan = self._verify(plan, following)
                    return self._switch(plan, following)
            finally:
                self._workers.stop()

    def roll_back(self) -> Plan:
        """Drop what is not at work yet; else go back to the generation before, with all that came since.

        Raises PlanError, KafkaException and what a mirror raises.
        """
        before = self._plan()
        plan = before.roll_back()
        if plan.phase != "returning":
            assert before.target is not None
            self._open(before.active)
            generations.write(self._kafka, plan)
            self._sweep(plan)
            self._tell(f"dropped {before.target}; at work is {plan.active}, as before")
            return plan
        assert plan.target is not None
        generations.write(self._kafka, plan)
        self._tell(f"going back to {plan.target}")
        left, back = self._kafka.at(plan.active), self._kafka.at(plan.target)
        self._open(plan.target)
        self._close(plan.active, FOLLOWED)
        with closing(Mirror(left, back, plan.read_from, plan.written_from)) as mirror:
            with closing(Following(left, back, plan, mirror, lambda: None, self._show)) as following:
                following.until_quiet(FOLLOWED)
            self._fail_point("returned")
            plan = plan.returned()
            generations.write(self._kafka, plan)
        self._tell(f"at work is {plan.active} again; {mirror.copied} records went back with it")
        return plan

    def _plan(self) -> Plan:
        return generations.newest(self._kafka) or Plan.initial(self._kafka.prefix, self._kafka.partitions)

    def _build(self, plan: Plan) -> Plan:
        """Topics with the states and the history of those at work. Interrupted, it begins anew under another name."""
        assert plan.target is not None
        generations.write(self._kafka, plan)
        self._open(plan.active)
        self._sweep(plan)
        self._tell(f"building {plan.target} beside {plan.active}")
        old, new = self._kafka.at(plan.active), self._kafka.at(plan.target)
        create_topics(new)
        self._grant(plan)
        self._fail_point("created")
        plan = plan.verify(*self._copy(old, new))
        self._fail_point("copied")
        generations.write(self._kafka, plan)
        return plan

    def _copy(self, old: Kafka, new: Kafka) -> tuple[Marks, Marks]:
        """The order matters. What is acknowledged now is in every state that is read later. What a state has applied
        has its outputs in Kafka, so they are copied up to where they end after the states were read.
        """
        topics = [topic for topic in TOPICS if topic not in CHANGELOGS]
        count = old.partitions
        with closing(history_reader(old)) as consumer, closing(Sender(new)) as sender:
            kept = {}
            for topic in topics:
                name = topic.full_name(old.prefix)
                kept[topic] = {Place(name, p): watermarks(consumer, name, p)[0] for p in range(count)}
            done = {topic: acknowledged(self._admin, topic, old, kept[topic]) for topic in topics}
            for changelog in CHANGELOGS:
                move_states(changelog, old, count, sender)
            sender.finish()
            ends = {topic: all_ends(consumer, topic, old, count) for topic in topics}
            for topic in topics:
                self._show(f"copying {topic.full_name(old.prefix)}")
                copy_history(consumer, sender, topic, kept[topic], done[topic], ends[topic])
                if topic is RAW:
                    self._fail_point("copied raw")
            moved = sender.finish()
        self._tell(f"copied {sum(moved.values())} records and states")
        read_from = {topic.name: tuple(ends[topic][place] for place in ends[topic]) for topic in topics}
        return read_from, {topic.name: ends_of(new, topic) for topic in topics}

    def _verify(self, plan: Plan, following: Following) -> Plan:
        seen = following.ends(OUTPUTS)
        following.until_caught_up()
        self._fail_point("caught up")
        self._require_agreement(plan, following, seen)
        plan = plan.switch()
        self._fail_point("verified")
        generations.write(self._kafka, plan)
        return plan

    def _switch(self, plan: Plan, following: Following) -> Plan:
        began_s, following.phase = time.monotonic(), plan.phase
        self._tell("switching: Kafka takes no new readings, connectors keep them")
        self._close(plan.active, (RAW,))
        self._fail_point("closed")
        following.until_quiet((RAW,))
        following.until_caught_up()
        self._require_agreement(plan, following, following.ends(OUTPUTS))
        self._fail_point("agreed")
        self._close(plan.active, (REJECTED, ALERTS))
        following.until_quiet(FOLLOWED)
        self._fail_point("complete")
        plan = plan.activate(following.ends(FOLLOWED, new=True), following.ends(FOLLOWED))
        generations.write(self._kafka, plan)
        self._tell(f"at work is {plan.active}; nothing was taken for {time.monotonic() - began_s:.1f} s")
        return plan

    def _require_agreement(self, plan: Plan, following: Following, seen: Marks) -> None:
        self._show("comparing")
        new_ends = following.ends(OUTPUTS, new=True)
        found = agree(
            following.reader,
            Range(following.old.prefix, plan.read_from, seen),
            Range(following.new.prefix, plan.written_from, new_ends),
        )
        if found.difference:
            generations.write(self._kafka, plan.fail(found.difference))
            self._open(plan.active)
            raise RescaleError(
                f"{found.difference}. {plan.target} stays for a look at it; {plan.active} is at work as before. "
                "`twin rescale --rollback` drops what was built"
            )
        self._tell(f"{found.compared} outputs of both generations are equal, byte for byte")

    def _close(self, generation: Generation, topics: Iterable[Topic]) -> None:
        """Let Kafka refuse every record. What is on its way from a process that stands still is refused as well."""
        set_largest_record(self._admin, [topic.full_name(generation.prefix) for topic in topics], 1)

    def _open(self, generation: Generation) -> None:
        set_largest_record(self._admin, [t.full_name(generation.prefix) for t in FOLLOWED], MAX_RECORD_BYTES)

    def _grant(self, plan: Plan) -> None:
        """Where Kafka asks for rights, our users need them on the new topics as well."""
        prefix = self._kafka.configured_prefix
        if acl.in_use(self._admin, prefix):
            acl.apply(self._admin, prefix, also=plan.prefixes() - {prefix})

    def _sweep(self, plan: Plan) -> None:
        """Delete topics and groups of generations that nobody needs any more."""
        prefix = self._kafka.configured_prefix
        needed = plan.prefixes()
        built = re.compile(rf"({re.escape(prefix)}\.g\d+)[.-]")
        topics = [name for name in self._admin.list_topics(timeout=ANSWER_S).topics if _not_in(needed, built, name)]
        for deleted in self._admin.delete_topics(topics).values() if topics else ():
            deleted.result(ANSWER_S)
        gone = {found[1] for name in topics if (found := built.match(name))}
        for answer in (
            self._admin.delete_consumer_groups(
                [app_id(stage, one) for one in gone for stage in (*STAGES, "sink")]
            ).values()
            if gone
            else ()
        ):
            try:
                answer.result(ANSWER_S)
            except KafkaException:
                continue  # never worked, or its members were killed seconds ago: without topics it is nothing
        if topics:
            self._tell(f"deleted {len(topics)} topics of {', '.join(sorted(gone))}")


def _not_in(needed: set[str], built: "re.Pattern[str]", name: str) -> bool:
    found = built.match(name)
    return found is not None and found[1] not in needed
