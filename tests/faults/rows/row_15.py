"""Row 15: the changelog was compacted, a partition of it never had a row, and one has lost all it had."""

import os
import signal
import time

from confluent_kafka import Consumer, TopicPartition
from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType

from cli.processes import STAGES
from runtime.kafka import client_settings, watermarks
from schemas.topics import CHANGELOGS, Topic
from tests.agents.kill_audit import records
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import Load, System, gone

TITLE = "changelog compacted, or a partition of it empty"
STATEFUL = STAGES[:3]
PATIENCE_S = 120.0
COMPACTED_S = 180.0
SHRUNK = 0.5  # at most so many of the records ever written are left
LOAD = Load(assets=3)  # fewer than partitions, so at least one partition has no row
COMPACT = {
    "segment.ms": "1000", "min.cleanable.dirty.ratio": "0.01", "min.compaction.lag.ms": "0",
    "max.compaction.lag.ms": "1000", "delete.retention.ms": "100",
}  # fmt: skip


def run(rig: Rig) -> None:
    """No hang, and the right state: from what compaction left, else from the input."""
    under_load(rig, strike, load=LOAD)


def strike(rig: Rig, system: System) -> None:
    """Compact, then let every stage begin again; then take away a whole partition's rows under a stage."""
    kafka = system.plant.kafka
    admin = AdminClient(client_settings(kafka))
    _alter(admin, ResourceType.BROKER, "1", {"log.cleaner.backoff.ms": "200"})
    for changelog in CHANGELOGS:
        _alter(admin, ResourceType.TOPIC, changelog.full_name(kafka.prefix), COMPACT)
    rig.wait_for(lambda: all(_left(system, c) <= SHRUNK for c in CHANGELOGS), "changelogs shrink", COMPACTED_S)
    rig.note("records_left", {c.name: round(_left(system, c), 3) for c in CHANGELOGS})
    empty = [p for p, end in _ends(system, CHANGELOGS[0]).items() if end == 0]
    rig.require(empty, "a partition never had a row")
    rig.struck()
    for _ in range(rig.times(full=5, short=1)):
        time.sleep(rig.rng.uniform(0.5, 3.0))
        killed_s = time.time()
        system.kill(*STATEFUL)
        system.wait_flowing(PATIENCE_S, since_s=killed_s)
    for changelog in rig.rng.sample(CHANGELOGS, rig.times(full=3, short=1)):
        empty_partition(rig, system, admin, changelog)


def empty_partition(rig: Rig, system: System, admin: AdminClient, changelog: Topic) -> None:
    """Delete all rows of a partition that has some, while its stage cannot write new ones, and let it begin again."""
    topic = changelog.full_name(system.plant.kafka.prefix)
    partition = rig.rng.choice([p for p, end in _ends(system, changelog).items() if end > 0])
    _alter(admin, ResourceType.TOPIC, topic, {"cleanup.policy": "compact,delete", "retention.ms": "-1"})
    killed_s = time.time()
    pid = system.send_signal(changelog.name, signal.SIGSTOP)
    for deleted in admin.delete_records([TopicPartition(topic, partition, -1)]).values():
        rig.note(f"{changelog.name} rows deleted up to", deleted.result().low_watermark)
    os.kill(pid, signal.SIGKILL)
    rig.wait_for(lambda: gone(pid), f"{changelog.name} is dead", 10)
    _alter(admin, ResourceType.TOPIC, topic, {"cleanup.policy": "compact"})
    rig.struck()
    system.wait_flowing(PATIENCE_S, since_s=killed_s)
    said = system.log_matches(changelog.name, f"no state in partition {partition} of the changelog")
    rig.require(said, f"{changelog.name} says that the state of partition {partition} was lost")


def _left(system: System, changelog: Topic) -> float:
    """Share of the records ever written that are still there."""
    written = sum(_ends(system, changelog).values())
    return sum(1 for _ in records(system.plant.kafka, changelog.full_name(system.plant.kafka.prefix))) / max(1, written)


def _ends(system: System, changelog: Topic) -> dict[int, int]:
    """Where each partition ends."""
    kafka = system.plant.kafka
    consumer = Consumer({**client_settings(kafka), "group.id": "unused"})
    topic = changelog.full_name(kafka.prefix)
    ends = {p: watermarks(consumer, topic, p)[1] for p in range(kafka.partitions)}
    consumer.close()
    return ends


def _alter(admin: AdminClient, kind: ResourceType, name: str, settings: dict[str, str]) -> None:
    entries = [ConfigEntry(k, v, incremental_operation=AlterConfigOpType.SET) for k, v in settings.items()]
    for altered in admin.incremental_alter_configs([ConfigResource(kind, name, incremental_configs=entries)]).values():
        altered.result()
