"""Row 27: the raw topic of a run is played again, with one worker per stage and with several, paced and flat out.

Played again means: copied record by record into the topics of a fresh prefix, which the real agents then work on. What
the whole flow gave, and what each replay gives, must be the same to the bit, per asset and stage.
"""

import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path

import tomlkit
from confluent_kafka import OFFSET_BEGINNING, Consumer, Producer, TopicPartition

from cli.lag import lag_of
from runtime.kafka import client_settings, watermarks
from runtime.load import load as load_configuration
from schemas.codec import decode
from schemas.frames import EstimateFrame, ValidatedFrame
from schemas.records import TwinState
from schemas.topics import ESTIMATES, MAX_RECORD_BYTES, RAW, STATE, VALIDATED, Topic
from tests.faults.bad_data import LIGHT
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import ROOT, System
from tests.faults.trees import start

TITLE = "replay twice, with 1 and 4 workers, paced and flat out"
STAGES = ("validation", "estimation", "twin")
OUTPUTS = (VALIDATED, ESTIMATES, STATE)
DONE_S = 300.0
END_S = 60.0
Record = tuple[int, int, bytes, bytes]
Digests = dict[tuple[str, str], str]


def run(rig: Rig) -> None:
    """Every replay ends with the digests of the run itself."""
    under_load(rig, strike, load=LIGHT)


def strike(rig: Rig, system: System) -> None:
    """Let it run for a while, with a stage killed in between, then replay what raw has until then."""
    time.sleep(rig.times(full=60, short=5))
    system.kill("estimation")
    system.wait_flowing(60)
    system.stop_load()
    system.drain()
    with system.silent():
        replay(rig, system)


def replay(rig: Rig, system: System) -> None:
    """Compare what raw has now with every way to replay it."""
    raw = list(records(system, system.plant.kafka.prefix, RAW))
    wanted = digests(system, system.plant.kafka.prefix)
    rig.require(len({asset for asset, _ in wanted}) >= LIGHT.assets, "every asset has outputs")
    ways = [(1, False), (2, True)] if rig.short else [(1, False), (4, False), (1, True), (4, True)]
    for workers, paced in ways:
        began = time.monotonic()
        prefix = f"{system.plant.kafka.prefix}-{workers}{'paced' if paced else 'flat'}"
        found = replayed(system, raw, prefix, workers, paced)
        name = f"{workers} workers, {'paced' if paced else 'flat out'}"
        rig.note(f"{name} (s)", round(time.monotonic() - began, 1))
        different = sorted(key for key in wanted.keys() | found.keys() if wanted.get(key) != found.get(key))
        rig.require(not different, f"{name}: the same digest of every asset and stage, but for {different[:5]}")
        rig.struck()
    rig.note("raw records", len(raw))
    rig.note("digests", len(wanted))


def replayed(system: System, raw: list[Record], prefix: str, workers: int, paced: bool) -> Digests:
    """The digests of a replay of `raw` by so many workers per stage."""
    rig = system.rig
    config = rig.folder / f"{prefix}.toml"
    document = tomlkit.parse(system.config.read_text()).unwrap()
    document["kafka"]["prefix"] = prefix
    config.write_text(tomlkit.dumps(document))
    env = {**system.env, "TWIN_CONFIG": str(config), "TWIN_RUN_DIR": str(system.run_dir)}
    created = start(ROOT, rig.folder / "topics.log", env, "topics", "create").wait(END_S)
    rig.require(created == 0, f"the topics of {prefix} are made")
    kafka = load_configuration(config).kafka
    if not paced:
        copy(system, raw, prefix, paced)
    with running_workers(rig, env, workers, rig.folder / f"{prefix}.log"):
        if paced:
            copy(system, raw, prefix, paced)
        for stage in STAGES:
            rig.wait_for(lambda stage=stage: lag_of(kafka, stage) == 0, f"{stage} has replayed all", DONE_S)  # type: ignore[misc]
    return digests(system, prefix)


@contextmanager
def running_workers(rig: Rig, env: dict[str, str], count: int, log: Path) -> Iterator[None]:
    """So many workers of each stage, told to end after the block."""
    workers: list[subprocess.Popen[bytes]] = []
    try:
        workers += [start(ROOT, log, env, "agent", stage) for stage in STAGES for _ in range(count)]
        yield
        rig.require(all(worker.poll() is None for worker in workers), "every worker lives until the end")
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGTERM)
        for worker in workers:
            worker.wait(END_S)


def copy(system: System, raw: list[Record], prefix: str, paced: bool) -> None:
    """Write raw records to the raw topic of a prefix, as they were; paced: at four times the rate of the recording.

    In each partition in the order of their offsets: times are those of several writers, and do not always grow.
    """
    producer = Producer(
        {**client_settings(system.plant.kafka), "message.max.bytes": MAX_RECORD_BYTES, "enable.idempotence": True}
    )
    first_ms, began_s = min(time_ms for _, time_ms, _, _ in raw), time.monotonic()
    for partition, time_ms, key, value in in_time(raw):
        if paced:
            time.sleep(max(0.0, (time_ms - first_ms) / 4000 - (time.monotonic() - began_s)))
        producer.produce(RAW.full_name(prefix), value, key, partition)
        producer.poll(0)
    assert producer.flush(60) == 0


def in_time(raw: list[Record]) -> list[Record]:
    """Records of all partitions by time, where a record has at least the time of those before it in its partition."""
    newest_ms: dict[int, int] = {}
    timed = []
    for partition, time_ms, key, value in raw:
        newest_ms[partition] = max(newest_ms.get(partition, 0), time_ms)
        timed.append((partition, newest_ms[partition], key, value))
    return sorted(timed, key=lambda record: record[1])


def digests(system: System, prefix: str) -> Digests:
    """(asset, stage's topic) → digest of all outputs in order; what comes again must be the same and counts once."""
    hashes: dict[tuple[str, str], blake2b] = {}
    seen: dict[tuple[str, object], bytes] = {}
    for topic in OUTPUTS:
        for _, _, key, value in records(system, prefix, topic):
            record = decode(value)
            assert isinstance(record, ValidatedFrame | EstimateFrame | TwinState)
            place = (topic.name, record.identity)
            if place in seen:
                assert seen[place] == value, f"{place} came again with other content"
                continue
            seen[place] = value
            hashes.setdefault((key.decode(), topic.name), blake2b(digest_size=16)).update(value)
    return {place: found.hexdigest() for place, found in hashes.items()}


def records(system: System, prefix: str, topic: Topic) -> Iterator[Record]:
    """(partition, time in ms, key, value) of every record of a topic, per partition in order."""
    kafka = system.plant.kafka
    consumer = Consumer({**client_settings(kafka), "group.id": "replay", "enable.auto.commit": False})
    for partition in range(kafka.partitions):
        place = TopicPartition(topic.full_name(prefix), partition, OFFSET_BEGINNING)
        end = watermarks(consumer, place.topic, partition)[1]
        consumer.assign([place])
        offset = 0
        while offset < end:
            for message in consumer.consume(500, 0.2):
                offset = message.offset() + 1
                yield partition, message.timestamp()[1], message.key() or b"", message.value() or b""
    consumer.close()
