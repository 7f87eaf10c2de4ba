"""A replay beside what really ran: agents in processes of their own on a real Kafka, one of them killed meanwhile."""

import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from confluent_kafka import Consumer, Producer

from replay.results.writers import RUN_TOPICS, WriteError, run_kafka
from replay.run import Request, Result, replay
from replay.sources.records import RawRecord
from replay.sources.span import SpanError, bounds_of, reader_settings
from replay.sources.topic import TopicSource
from runtime.config import Kafka, Plant
from runtime.kafka import client_settings, create_topics
from runtime.load import load
from runtime.partitions import home_partition
from schemas.codec import decode, encode
from schemas.frames import Frame
from schemas.records import TwinState
from schemas.topics import ALERTS, ESTIMATES, RAW, REJECTED, STATE, VALIDATED, Topic
from tests.kernels.frame_strategies import frames_of, random_events

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]
ROOT = Path(__file__).parents[2]
PARTITIONS = 4
ASSETS = tuple(f"R{n}" for n in range(9))
STAGES = ("validation", "estimation", "twin")
FRAMES = 60
CONFIGURATION = """
[kafka]
bootstrap = "{bootstrap}"
prefix = "replayed"
partitions = 4
[agents]
checkpoint_s = 0.3
[twin]
windows_s = [1, 5]
[tags."*"]
interval_s = 1.0
validation = {{ gap_factor = 2.5, fail_span = [-50, 400], flat_tolerance = 0.5, flat_suspect_s = 3 }}
"""
GARBAGE = (b"R1", b"garbage", home_partition(b"R1", PARTITIONS))


@dataclass(frozen=True)
class Live:
    """What ran: the configuration, and a time between the first and the second half of raw."""

    plant: Plant
    between: str


def frames(asset: str, seed: int, first: int) -> list[Frame]:
    """Frames of an asset from two sources, seqs from `first`; every tenth comes twice."""
    events = random_events(FRAMES * 4, seed)
    found = []
    for i, frame in enumerate(frames_of(events, [i % 4 == 0 for i in range(len(events))])):
        made = replace(frame, asset=asset, source=f"source-{i % 2}", seq=first + i // 2)
        found += [made, made] if i % 10 == 9 else [made]
    return found


def write(kafka: Kafka, seed: int, first: int) -> None:
    """The frames of all assets in turns, and a record that nobody can decode."""
    producer = Producer({**client_settings(kafka), "enable.idempotence": True})
    turns = zip(*(frames(asset, seed + n, first) for n, asset in enumerate(ASSETS)), strict=False)
    key, value, partition = GARBAGE
    producer.produce(RAW.full_name(kafka.prefix), value, key, partition)
    for turn in turns:
        for frame in turn:
            key = frame.asset.encode()
            producer.produce(RAW.full_name(kafka.prefix), encode(frame), key, home_partition(key, PARTITIONS))
    assert producer.flush(30) == 0


def records(kafka: Kafka, topic: Topic) -> list[RawRecord]:
    """All records of a topic, partition by partition."""
    name = topic.full_name(kafka.prefix)
    consumer = Consumer(reader_settings(kafka))
    bounds = bounds_of(consumer, kafka, name)
    consumer.close()
    source = TopicSource(kafka, name)
    found = [r for p, (low, high) in bounds.items() for batch in source.read(p, low, high) for r in batch]
    source.close()
    return found


def once(kafka: Kafka, topic: Topic) -> dict[int, list[bytes]]:
    """Per partition the outputs in order, one per identity: what comes again after a kill must be the same bytes."""
    found: dict[int, list[bytes]] = defaultdict(list)
    known: dict[object, bytes] = {}
    for record in records(kafka, topic):
        frame = decode(record.value or b"")
        assert isinstance(frame, Frame | TwinState)
        if known.setdefault(frame.identity, record.value or b"") != record.value:
            raise AssertionError(f"{frame.identity} has two outputs")
        if len(known) > sum(map(len, found.values())):
            found[record.partition].append(record.value or b"")
    return found


def said(kafka: Kafka, topic: Topic) -> set[tuple[int, bytes]]:
    """Alerts or rejected records, where the order between stages and repetitions mean nothing."""
    return {(record.partition, record.value or b"") for record in records(kafka, topic)}


def start(stage: str, config: Path) -> "subprocess.Popen[bytes]":
    """An agent."""
    command = [sys.executable, "-m", "cli.main", "agent", stage, "--config", str(config)]
    with config.with_name(f"{stage}.log").open("ab") as log:
        return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)


def wait_for(kafka: Kafka, count: int) -> None:
    """Until so many different twin states are there, and their checkpoint is."""
    end_s = time.monotonic() + 120
    while sum(map(len, once(kafka, STATE).values())) < count:
        assert time.monotonic() < end_s, "the agents are not done"
        time.sleep(1)
    time.sleep(2)


@pytest.fixture(scope="module")
def live(kafka: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """Three agents over two halves of frames; validation is killed during the second."""
    config = tmp_path_factory.mktemp("live") / "plant.toml"
    config.write_text(CONFIGURATION.format(bootstrap=kafka))
    plant = load(config)
    create_topics(plant.kafka)
    agents = {stage: start(stage, config) for stage in STAGES}
    try:
        write(plant.kafka, 1, 0)
        half = len({f.identity for n, asset in enumerate(ASSETS) for f in shortest(1, n, asset, 0)})
        wait_for(plant.kafka, half)
        between = datetime.now(UTC).isoformat()
        time.sleep(0.5)
        write(plant.kafka, 100, 1000)
        time.sleep(0.3)
        agents["validation"].kill()
        agents["validation"].wait()
        agents["validation"] = start("validation", config)
        wait_for(plant.kafka, half + len({f.identity for n, a in enumerate(ASSETS) for f in shortest(100, n, a, 1000)}))
    finally:
        for agent in agents.values():
            agent.kill()
            agent.wait()
    yield Live(plant, between)


def shortest(seed: int, n: int, asset: str, first: int) -> list[Frame]:
    """The frames of an asset that `write` sends: turns end with the asset that has the fewest."""
    length = min(len(frames(other, seed + i, first)) for i, other in enumerate(ASSETS))
    return frames(asset, seed + n, first)[:length]


def replayed(live: Live, run: str, begin: str = "beginning", **asked: object) -> Result:
    """A replay to topics."""
    return replay(Request(plant=live.plant, begin=begin, end="now", run=run, **asked))  # type: ignore[arg-type]


@pytest.mark.parametrize("workers", [1, 4])
def test_a_replay_gives_the_bytes_of_the_live_run(live: Live, workers: int) -> None:
    """With any number of workers every record of the run's topics is that of the live ones, to the byte."""
    result = replayed(live, f"all-{workers}", workers=workers)
    run = run_kafka(live.plant.kafka, f"all-{workers}")
    for topic in (VALIDATED, ESTIMATES, STATE):
        assert once(run, topic) == once(live.plant.kafka, topic)
    for topic in (ALERTS, REJECTED):
        assert said(run, topic) == said(live.plant.kafka, topic)
    assert result.counts.outputs == sum(map(len, once(run, STATE).values()))
    assert result.provenance is not None
    assert result.provenance.workers == workers


def test_digests_do_not_depend_on_workers(live: Live) -> None:
    """Runs of one and of three workers have equal digests, as live and wide."""
    for mode in ("as-live", "wide"):
        one, three = (replayed(live, f"{mode}-{n}", workers=n, to="none", frames=mode).provenance for n in (1, 3))
        assert one is not None and three is not None
        assert one.digests == three.digests
        assert sum(map(len, one.digests.values())) == len(ASSETS)


def test_the_live_state_goes_on_to_the_same_bytes(live: Live) -> None:
    """From the rows of the live changelogs before T0, a replay of the second half gives its live outputs."""
    result = replayed(live, "second-half", begin=live.between, state="live", workers=2)
    run = run_kafka(live.plant.kafka, "second-half")
    assert result.provenance is not None
    assert f"{len(ASSETS)} assets" in result.provenance.state
    assert result.provenance.notes == ()
    for topic in (VALIDATED, ESTIMATES, STATE):
        whole, half = once(live.plant.kafka, topic), once(run, topic)
        assert half == {p: outputs[len(outputs) - len(half[p]) :] for p, outputs in whole.items()}
        assert all(len(half[p]) > len(whole[p]) // 3 for p in whole)


def test_a_warm_up_is_thrown_away(live: Live) -> None:
    """A warm-up that covers all there is gives the live state, and no result of its own span."""
    replayed(live, "warm", begin=live.between, state="warmup=1h", workers=2)
    replayed(live, "cold", begin=live.between, workers=2)
    warm, cold = (once(run_kafka(live.plant.kafka, run), STATE) for run in ("warm", "cold"))
    whole = once(live.plant.kafka, STATE)
    assert warm == {p: outputs[len(outputs) - len(warm[p]) :] for p, outputs in whole.items()}
    assert warm != cold


def test_only_the_assets_asked_for(live: Live) -> None:
    """Other assets leave no trace, and those asked for come out as ever."""
    replayed(live, "some", assets=("R1", "R[45]"), workers=2)
    found = once(run_kafka(live.plant.kafka, "some"), STATE)
    names = {state.asset for outputs in found.values() for state in map(decode, outputs)}  # type: ignore[union-attr]
    assert names == {"R1", "R4", "R5"}
    whole = {data for outputs in once(live.plant.kafka, STATE).values() for data in outputs}
    assert {data for outputs in found.values() for data in outputs} <= whole


def test_a_name_is_used_once(live: Live) -> None:
    """A run whose topics are there is refused, and no record is written to them."""
    replayed(live, "twice", workers=1)
    before = records(run_kafka(live.plant.kafka, "twice"), STATE)
    with pytest.raises(WriteError, match="--run 'twice'"):
        replayed(live, "twice", workers=1)
    assert records(run_kafka(live.plant.kafka, "twice"), STATE) == before


@pytest.mark.parametrize(
    ("begin", "end", "says"),
    [
        ("yesterday", "now", "--from 'yesterday': allowed is an ISO time"),
        ("beginning", "25:00", "--to '25:00': allowed is an ISO time"),
        ("now", "now", "the span is empty"),
        ("2026-01-02", "2026-01-01", "the span is empty"),
        ("2001-01-01", "2001-01-02", "has no record in that span"),
    ],
)
def test_a_span_that_cannot_be(live: Live, begin: str, end: str, says: str) -> None:
    """A wrong time or an empty span is an error that names the option and its value."""
    with pytest.raises(SpanError, match=says):
        replay(Request(plant=live.plant, begin=begin, end=end, run="none", to="none"))


def test_another_number_of_partitions_is_refused(live: Live) -> None:
    """Where raw has not as many partitions as configured, every record would be misplaced: nothing is read."""
    kafka = live.plant.kafka.model_copy(update={"partitions": PARTITIONS + 1})
    with pytest.raises(SpanError, match=r"has 4 partitions, kafka\.partitions = 5"):
        replay(Request(plant=live.plant.model_copy(update={"kafka": kafka}), begin="beginning", end="now", run="a"))


def test_run_topics_are_those_of_the_table() -> None:
    """A run has the outputs of every stage, alerts and rejected records."""
    assert set(RUN_TOPICS) == {VALIDATED, ESTIMATES, STATE, ALERTS, REJECTED}
