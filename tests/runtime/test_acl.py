"""`runtime/acl.toml` on a real secured Kafka: every right is enough for its work, and everything else is refused."""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fnmatch import fnmatchcase
from itertools import product

import pytest
from confluent_kafka import (
    Consumer,
    ConsumerGroupTopicPartitions,
    KafkaError,
    KafkaException,
    Message,
    Producer,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient, NewTopic

from runtime.acl import Right, apply, binding_of, exactly, rights, roles
from runtime.config import Kafka
from runtime.kafka import client_settings
from schemas.generations import topic_name
from schemas.topics import TOPICS, app_id, user_id
from tests.secured import PARTITIONS, SecuredKafka

PREFIX = "acl"
CONNECTORS_AND_AGENTS = {writer for topic in TOPICS for writer in topic.writers}
NAMES = [topic.full_name(PREFIX) for topic in TOPICS]
GROUPS = sorted({right.name for right in rights(PREFIX) if right.resource == "group"})
#: Topics of runs, one that is almost one of them, and one of another installation's runs.
RUNS = [f"{PREFIX}.runs", f"{PREFIX}.run.night.state", f"{PREFIX}.running", f"{PREFIX}2.run.night.state"]
TRIES = {
    "write": [*NAMES, *RUNS],
    "read": [*NAMES, *RUNS],
    "create": [*NAMES, *RUNS, f"{PREFIX}.new"],
    "group": GROUPS,
}
#: What is tried → keys of the file that give it.
KEYS = {"write": ("write", "own"), "read": ("read", "own", "see"), "create": ("create", "own"), "group": ("group",)}
ALLOWED = {
    right: {
        (role, name)
        for role, lists in roles().items()
        for key in KEYS[right]
        for given in lists.get(key, ())
        for name in names
        if fnmatchcase(name, given.format(prefix=PREFIX))
    }
    for right, names in TRIES.items()
}
#: No answer to the question of rights: the coordinator of a group has just moved in.
NOT_YET = {"COORDINATOR_LOAD_IN_PROGRESS", "COORDINATOR_NOT_AVAILABLE", "NOT_COORDINATOR"}
pytestmark = pytest.mark.services


def test_the_file_is_the_table_of_topics() -> None:
    """Who writes and reads a topic by the table of topics has exactly these rights; only people read more."""
    for right, of_topic in (("write", "writers"), ("read", "readers")):
        by_table = {(role, t.full_name(PREFIX)) for t in TOPICS for role in getattr(t, of_topic)}
        by_file = {(role, name) for role, name in ALLOWED[right] if role != "viewer" and name in NAMES}
        assert by_file == by_table
    assert roles().keys() > CONNECTORS_AND_AGENTS


def test_no_right_is_a_wildcard() -> None:
    """No rule names the cluster, and no user of ours may alter rules, topics or users. Topics of runs, whose names are
    made as they come, are the only ones that are named by how they begin: a replay's to make, a viewer's to read."""
    for right in rights(PREFIX):
        assert right.resource in {"topic", "group"}
        assert "*" not in right.name
        assert right.operation in {"Read", "Write", "Create", "Describe"}
    patterns = {(right.user, right.operation, right.name) for right in rights(PREFIX) if right.pattern != "literal"}
    replay = {(user_id("replay", PREFIX), operation, f"{PREFIX}.run.") for operation in ("Create", "Read", "Write")}
    assert patterns == {*replay, (user_id("viewer", PREFIX), "Read", f"{PREFIX}.run.")}


def test_the_topics_of_a_rescale_have_the_same_rights() -> None:
    """For another generation of topics every user has what it has for the configured ones, and nothing else; where it
    looks which is at work is one topic for all."""
    before, after = set(rights(PREFIX)), set(rights(PREFIX, [f"{PREFIX}.g2"]))
    assert before < after
    more = {
        replace(right, name=right.name.replace(PREFIX, f"{PREFIX}.g2", 1))
        for right in before
        if right.name.startswith(PREFIX) and not right.name.startswith((topic_name(PREFIX), f"{PREFIX}.run"))
    }
    assert after - before == more
    followers = {right.user for right in after if right.name == topic_name(PREFIX)}
    assert followers >= {user_id(role, PREFIX) for role in CONNECTORS_AND_AGENTS}


class Clients:
    """What each role may try, with clients of its own."""

    def __init__(self, secured: SecuredKafka) -> None:
        self._secured = secured

    def tries(self, right: str, role: str, name: str) -> KafkaError | None:
        """Do what the right is for; None when Kafka let it."""
        settings = client_settings(self._secured.config(role, PREFIX))
        end_s = time.monotonic() + 60
        while True:
            try:
                found: KafkaError | None = getattr(self, f"_{right}")(settings, name)
            except KafkaException as error:
                found = error.args[0]
            if found is None or found.name() not in NOT_YET or time.monotonic() > end_s:
                return found
            time.sleep(0.1)

    def _write(self, settings: dict[str, str | int], name: str) -> KafkaError | None:
        errors: list[KafkaError | None] = []

        def delivered(error: KafkaError | None, _message: Message) -> None:
            errors.append(error)

        # Who may write nothing gets no producer's id: refused for good, perhaps before there is anything to deliver.
        settings = {**settings, "enable.idempotence": True, "acks": "all", "log_level": 0}
        refusals: list[KafkaError] = []
        producer = Producer({**settings, "error_cb": refusals.append})
        with contextlib.suppress(KafkaException):
            producer.produce(name, b"x", b"asset", partition=0, on_delivery=delivered)
        producer.flush(20)
        told = [error for error in errors if error is None or error.name() != "_FATAL"]
        found = [*told, *(error for error in refusals if error.name() in REFUSALS)]
        assert found, f"no answer for {name}: {errors}, {refusals}"
        return found[0]

    def _read(self, settings: dict[str, str | int], name: str) -> KafkaError | None:
        consumer = Consumer(
            {**settings, "group.id": "no-group", "enable.partition.eof": True, "auto.offset.reset": "earliest"}
            | {"log_level": 0}
        )
        try:
            if hidden := consumer.list_topics(name, timeout=20).topics[name].error:
                return hidden  # type: ignore[no-any-return]
            consumer.assign([TopicPartition(name, 1, 0)])  # nothing is ever written there: its end is the answer
            for _ in range(200):
                message = consumer.poll(0.1)
                error = None if message is None else message.error()
                if error is None or error.code() == KafkaError.GROUP_AUTHORIZATION_FAILED:
                    continue
                return None if error.code() == KafkaError._PARTITION_EOF else error
        finally:
            consumer.close()
        raise AssertionError(f"no answer for {name}")

    def _create(self, settings: dict[str, str | int], name: str) -> KafkaError | None:
        admin = AdminClient({**settings, "log_level": 0})
        admin.create_topics([NewTopic(name, 1, 1)], validate_only=True)[name].result(20)
        return None

    def _group(self, settings: dict[str, str | int], name: str) -> KafkaError | None:
        """A commit needs the right on the group, and a topic that may be read."""
        user = settings["sasl.username"]
        readable = next(
            r.name
            for r in rights(PREFIX)
            if (r.user, r.operation, r.resource) == (user, "Read", "topic") and r.name in NAMES
        )
        offsets = ConsumerGroupTopicPartitions(name, [TopicPartition(readable, 0, 0)])
        admin = AdminClient({**settings, "log_level": 0})  # it must live until the answer is there
        result = next(iter(admin.alter_consumer_group_offsets([offsets], request_timeout=20).values())).result(30)
        return result.topic_partitions[0].error  # type: ignore[no-any-return]

    def _offsets(self, settings: dict[str, str | int], name: str) -> KafkaError | None:
        admin = AdminClient({**settings, "log_level": 0})
        next(iter(admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(name)]).values())).result(20)
        return None


@pytest.fixture(scope="module")
def clients(secured_kafka: SecuredKafka) -> Iterator[Clients]:
    """An installation with this prefix, and topics of runs."""
    secured_kafka.add(PREFIX)
    admin = secured_kafka.admin()  # it must live until the answer is there
    for made in admin.create_topics([NewTopic(name, PARTITIONS, 1) for name in RUNS]).values():
        made.result(30)
    yield Clients(secured_kafka)


@pytest.mark.parametrize("right", TRIES)
def test_every_role_may_do_what_the_file_says_and_nothing_else(clients: Clients, right: str) -> None:
    """Every role tries to write, read and create every topic, and to commit for every group: what the file gives
    works, everything else ends with Kafka's refusal, for the connectors as for the people."""
    readers = {role for role, _ in ALLOWED["read"]}
    names = [role for role in roles() if right != "group" or role in readers]
    cases = list(product(names, TRIES[right]))
    with ThreadPoolExecutor(max_workers=8) as pool:
        errors = list(pool.map(lambda case: clients.tries(right, *case), cases))
    answers = {case: error for case, error in zip(cases, errors, strict=True)}
    exists = KafkaError.TOPIC_ALREADY_EXISTS
    worked = {case for case, error in answers.items() if error is None or error.code() == exists}
    refused = {case for case, error in answers.items() if error is not None and error.name() in REFUSALS}
    assert worked | refused == set(cases), {case: e for case, e in answers.items() if case not in worked | refused}
    assert worked == ALLOWED[right]
    assert refused


REFUSALS = {"TOPIC_AUTHORIZATION_FAILED", "GROUP_AUTHORIZATION_FAILED", "CLUSTER_AUTHORIZATION_FAILED"}


def test_only_the_viewer_sees_where_the_agents_are(clients: Clients) -> None:
    """The viewer asks for the offsets of every agent, `twin status` needs them; a connector may ask for none."""
    for stage in ("validation", "estimation", "twin", "sink"):
        group = app_id(stage, PREFIX)
        assert clients.tries("offsets", "viewer", group) is None
        refused = clients.tries("offsets", "connector.mqtt", group)
        assert refused is not None and refused.name() == "GROUP_AUTHORIZATION_FAILED"


def test_nobody_alters_rules_but_the_admin(clients: Clients, secured_kafka: SecuredKafka) -> None:
    """None of our roles can give itself a right, not even who creates topics."""
    for role in roles():
        with pytest.raises(KafkaException, match="CLUSTER_AUTHORIZATION_FAILED"):
            apply(AdminClient(client_settings(secured_kafka.config(role, PREFIX))), PREFIX)


def test_applying_again_changes_nothing_and_takes_away_what_is_too_much(secured_kafka: SecuredKafka) -> None:
    """A second `apply` adds and removes nothing; a right given by hand is taken away, that of another user is not."""
    admin = secured_kafka.admin()
    apply(admin, "again")
    assert apply(admin, "again") == ([], [])
    extra = Right(user_id("sink", "again"), "Write", "topic", "again.raw")
    other = Right("grafana", "Read", "topic", "again.state")
    for future in admin.create_acls([binding_of(extra), binding_of(other)]).values():
        future.result(20)
    assert apply(admin, "again") == ([], [extra])
    assert admin.describe_acls(exactly(binding_of(other))).result(20) == [binding_of(other)]


def test_an_open_kafka_asks_for_no_user() -> None:
    """Without security settings no client is given a user, and no password is read."""
    settings = client_settings(Kafka())
    assert settings["security.protocol"] == "PLAINTEXT"
    assert not [name for name in settings if name.startswith(("sasl.", "ssl."))]
