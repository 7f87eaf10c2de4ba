"""Row 25: workers of two releases side by side, the newer of which writes a field more in every frame and state.

A schema changes in two releases (see `schemas/codec.py`): the first one reads the new version, the second one writes
it. So the row needs three trees: this one, a copy that reads the next version, in which the row runs itself again, and
a copy that writes it, whose workers join and leave the groups of the first.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition

from cli.processes import STAGES
from runtime.kafka import client_settings, watermarks
from schemas.codec import HEADER_BYTES, version_of
from schemas.topics import CHANGELOGS, ESTIMATES, VALIDATED, Topic
from tests.faults.bad_data import LIGHT, rejected
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import ROOT, System
from tests.faults.trees import copied, is_next, reads_next, start, writes_next

TITLE = "old and new version of a schema, and of a worker, side by side"
TOGETHER_S = 180.0
BACK_S = 60.0
END_S = 60.0
LIMIT_S = 1800.0


def run(rig: Rig) -> None:
    """Nothing is lost or rejected while workers of the newer release come (upgrade) and go (rollback)."""
    if is_next(ROOT):
        under_load(rig, strike, load=LIGHT)
        return
    tree = copied(ROOT, rig.folder / "reads")
    reads_next(tree)
    out = rig.folder / "again.json"
    command = [sys.executable, "-m", "tests.faults", "--row", "25", "--seed", str(rig.outcome.seed), "--out", str(out)]
    done = subprocess.run(
        [*command, *(["--short"] if rig.short else [])],
        cwd=tree, env={**os.environ, "PYTHONPATH": str(tree)},
        timeout=LIMIT_S, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if not out.exists():
        raise AssertionError(f"the row in the copy ended with {done.returncode}: {done.stderr[-2000:]}")
    again = json.loads(out.read_text())[0]
    for name in ("struck", "readings", "missing", "repeated", "altered", "recover_s", "notes"):
        setattr(rig.outcome, name, again[name])
    for failure in again["failures"]:
        rig.require(False, failure)


def strike(rig: Rig, system: System) -> None:
    """Upgrade every stage under load, let both work together, roll back; again."""
    tree = copied(ROOT, rig.folder / "writes")
    writes_next(tree)
    env = {**system.env, "TWIN_CONFIG": str(system.config), "TWIN_RUN_DIR": str(system.run_dir)}
    for turn in range(rig.times(full=3, short=1)):
        before = written(system)
        workers = {stage: start(tree, rig.folder / f"{stage}-{turn}.log", env, "agent", stage) for stage in STAGES}
        try:
            rig.wait_for(lambda before=before: both_write(system, before), "both releases write everything", TOGETHER_S)  # type: ignore[misc]
            system.wait_flowing(BACK_S)
            rig.require(all(w.poll() is None for w in workers.values()), "the new workers live")
        finally:
            for worker in workers.values():
                worker.send_signal(signal.SIGTERM)
            codes = {stage: worker.wait(END_S) for stage, worker in workers.items()}
        rig.require(set(codes.values()) == {0}, f"the new workers end as they are told to: {codes}")
        system.wait_flowing(BACK_S, since_s=time.time())
        rig.struck(len(workers))
    rig.note("records by schema version", {topic: dict(counts) for topic, counts in written(system).items()})
    refused = rejected(system)
    rig.require(not refused, f"nothing is rejected: {[r.reason for r in refused[:3]]}")


def both_write(system: System, before: dict[str, Counter[str]]) -> bool:
    """Whether since then each topic got records of both versions."""
    return all(len(counts - before[topic]) == 2 for topic, counts in written(system).items())


def written(system: System) -> dict[str, Counter[str]]:
    """How many records of each schema version each topic has."""
    counts: dict[str, Counter[str]] = {}
    for topic in (VALIDATED, ESTIMATES, *CHANGELOGS):
        counts[topic.full_name("")] = Counter(versions(system, topic))
    return counts


def versions(system: System, topic: Topic) -> list[str]:
    """The schema version of every record; a row of a changelog begins with the position it has applied."""
    kafka, skip = system.plant.kafka, 8 if topic in CHANGELOGS else 0
    consumer = Consumer({**client_settings(kafka), "group.id": "versions", "enable.auto.commit": False})
    found = []
    for partition in range(kafka.partitions):
        place = TopicPartition(topic.full_name(kafka.prefix), partition, OFFSET_BEGINNING)
        low, end = watermarks(consumer, place.topic, partition)
        consumer.assign([place])
        offset = low
        while offset < end:
            for message in consumer.consume(500, 0.2):
                offset = message.offset() + 1
                found.append(f"v{version_of((message.value() or b'')[skip:][:HEADER_BYTES]).number}")
    consumer.close()
    return found
