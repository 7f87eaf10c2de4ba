"""Two sides of a comparison, one of them damaged: each damage is named, and nothing else is."""

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from cli.main import app
from replay.compare.compare import Comparison, add
from replay.compare.outputs import OUTPUTS, Filter, Outputs
from runtime.config import Kafka
from runtime.generations import write
from runtime.kafka import client_settings, create_topics
from runtime.partitions import home_partition
from schemas.codec import decode_as, encode
from schemas.frames import EstimateFrame, ValidatedFrame
from schemas.generations import Generation, Plan
from schemas.topics import CHANGELOGS, ESTIMATES, RAW, STATE, VALIDATED
from tests.audit.flow import PARTITIONS, START_NS, Flow, Record

FRAMES = 12
EVERYTHING = Filter()
OF_STAGE = {topic.name: stage for stage, topic in OUTPUTS.items()}


def flow() -> Flow:
    """A small run of the whole flow."""
    made = Flow("cmp")
    made.fill(FRAMES)
    made.run()
    return made


def sides(records: Sequence[Record], wanted: Filter = EVERYTHING) -> dict[str, Outputs]:
    """What is read of these records, by stage."""
    found = {stage: Outputs(topic.name, stage) for stage, topic in OUTPUTS.items()}
    ends: dict[tuple[str, int], int] = {}
    for record in records:
        if record.topic in OF_STAGE:
            offset = ends.get((record.topic, record.partition), 0)
            ends[record.topic, record.partition] = offset + 1
            found[OF_STAGE[record.topic]].add(record.partition, offset, record.value, wanted)
    return found


def compared(live: Sequence[Record], run: Sequence[Record], *, common: bool = False, **wanted: Any) -> Comparison:
    """Both sides compared."""
    found = Comparison()
    one, other = sides(live, Filter(**wanted)), sides(run, Filter(**wanted))
    for stage in OUTPUTS:
        add(found, one[stage], other[stage], common=common)
    return found


def index_of(records: Sequence[Record], topic: str, asset: str, number: int) -> int:
    """Where the asset's n-th record of a topic is."""
    return [i for i, r in enumerate(records) if r.topic == topic and r.key.decode() == asset][number]


def bit(records: list[Record], at: int) -> None:
    """The last bit of a record's last byte changes."""
    value = records[at].value
    records[at] = replace(records[at], value=value[:-1] + bytes([value[-1] ^ 1]))


def test_the_same_is_equal_whatever_comes_again_and_however_it_is_partitioned() -> None:
    """Equal digests: for the same records, with records that came again, and in another number of partitions."""
    live = flow().records
    again = [*live[:30], *live[10:]]
    other = [replace(r, partition=home_partition(r.key, 7)) for r in live]
    for run in (live, again, other):
        found = compared(live, run)
        assert all(line.is_equal and line.digests[0] == line.digests[1] for line in found.lines)
        assert len(found.lines) == 6
        assert found.is_comparable
        assert not found.is_different
    partitions = list(compared(live, again).partitions())
    assert {stage for stage, *_ in partitions} == set(OUTPUTS)
    assert all(one == two for _, _, one, two in partitions)
    assert list(compared(live, other).partitions()) == []


@pytest.mark.parametrize("topic", [VALIDATED.name, ESTIMATES.name])
def test_a_changed_bit_is_named(topic: str) -> None:
    """One bit: that stage, asset and frame; everything else is equal."""
    live = flow().records
    run = list(live)
    bit(run, index_of(run, topic, "cmp-B", 5))
    found = compared(live, run)
    wrong = [line for line in found.lines if not line.is_equal]
    assert [(line.stage, line.asset, line.differing) for line in wrong] == [(OF_STAGE[topic], "cmp-B", 1)]
    assert wrong[0].first is not None
    assert wrong[0].first.identity.seq == 5
    assert not (wrong[0].missing or wrong[0].outside or wrong[0].swapped or found.faults)
    assert len([1 for *_, one, two in found.partitions() if one != two]) == 1


@pytest.mark.parametrize("damaged", ["LIVE", "RUN"])
def test_a_missing_frame_is_named(damaged: str) -> None:
    """A frame that one side lacks between others is a difference, also where only what both have is compared."""
    whole = flow().records
    less = [r for i, r in enumerate(whole) if i != index_of(whole, STATE.name, "cmp-A", 4)]
    live, run = (less, whole) if damaged == "LIVE" else (whole, less)
    for common in (False, True):
        found = compared(live, run, common=common)
        wrong = [line for line in found.lines if not line.is_equal]
        assert [(line.stage, line.asset) for line in wrong] == [("twin", "cmp-A")]
        assert [str(m) for m in wrong[0].missing] == [f"{damaged} lacks cmp-A, mqtt-1, epoch {START_NS}, seq 4"]
        assert not (wrong[0].differing or wrong[0].swapped or wrong[0].outside or found.faults)
        assert found.is_different


def test_another_range_is_not_comparable_but_for_what_both_have() -> None:
    """Frames only one side has before or behind the other's: named, and left out on request, with equal digests."""
    live = flow().records
    bounds = [index_of(live, VALIDATED.name, "cmp-A", number) for number in (0, 1, FRAMES - 1)]
    run = [r for i, r in enumerate(live) if i not in bounds]
    found = compared(live, run)
    assert not found.is_different
    assert not found.is_comparable
    outside = [m for line in found.lines for m in line.outside]
    assert [(m.side, m.first_seq, m.last_seq) for m in outside] == [("RUN", 0, 1), ("RUN", FRAMES - 1, FRAMES - 1)]
    found = compared(live, run, common=True)
    assert found.is_comparable
    assert all(line.is_equal and line.digests[0] == line.digests[1] for line in found.lines)


@pytest.mark.parametrize("lacking", ["LIVE", "RUN"])
@pytest.mark.parametrize("common", [False, True])
def test_an_asset_that_only_one_side_has_is_never_equal(lacking: str, common: bool) -> None:
    """Nor is a stage: there is nothing that both have, so what the other side has is named, whatever is asked for."""
    whole = flow().records
    without_asset = [r for r in whole if r.key != b"cmp-B"]
    without_stage = [r for r in whole if r.topic != STATE.name]
    alone = {(stage, "cmp-B") for stage in OUTPUTS}, {("twin", "cmp-A"), ("twin", "cmp-B")}
    for less, expected in zip((without_asset, without_stage), alone, strict=True):
        live, run = (less, whole) if lacking == "LIVE" else (whole, less)
        found = compared(live, run, common=common)
        assert not found.is_different
        assert not found.is_comparable
        outside = [(line, m) for line in found.lines for m in line.outside]
        assert {(line.stage, line.asset) for line, _ in outside} == expected
        assert {(m.side, m.first_seq, m.last_seq) for _, m in outside} == {(lacking, 0, FRAMES - 1)}
        assert all(sorted(line.frames) == [0, FRAMES] and not line.is_equal for line, _ in outside)


def test_a_swapped_order_is_named() -> None:
    """Two frames of an asset in another order: that place, and no other difference."""
    live = flow().records
    run = list(live)
    i, j = (index_of(run, ESTIMATES.name, "cmp-B", number) for number in (6, 7))
    run[i], run[j] = run[j], run[i]
    found = compared(live, run)
    wrong = [line for line in found.lines if not line.is_equal]
    assert [(line.stage, line.asset, line.swapped) for line in wrong] == [("estimation", "cmp-B", 1)]
    assert wrong[0].order.startswith(f"RUN has cmp-B, mqtt-1, epoch {START_NS}, seq 7 before seq 6")
    assert not (wrong[0].differing or wrong[0].missing or wrong[0].outside or found.faults)
    assert wrong[0].digests[0] != wrong[0].digests[1]


def test_a_frame_that_came_again_otherwise_is_named() -> None:
    """The same identity with other bytes, an asset in two partitions, bytes that are no record: faults of that side."""
    live = flow().records
    at = index_of(live, ESTIMATES.name, "cmp-A", 3)
    doubled = [*live, replace(live[at])]
    bit(doubled, len(doubled) - 1)
    moved = [*live, replace(live[at], partition=(live[at].partition + 1) % PARTITIONS)]
    broken = [*live, replace(live[at], value=b"\xc3\x01 no")]
    for run, kind in ((doubled, "conflicting"), (moved, "in two partitions"), (broken, "unreadable")):
        found = compared(live, run)
        assert [(side, fault.kind) for side, fault in found.faults] == [("RUN", kind)]
        assert all(line.is_equal for line in found.lines)
        assert found.is_different


def test_assets_and_times_choose_frames() -> None:
    """Frames of other assets and times do not count, on both sides by the same rule."""
    live = flow().records
    run = list(live)
    bit(run, index_of(run, VALIDATED.name, "cmp-B", 2))
    assert not compared(live, run, assets=frozenset({"cmp-A"})).is_different
    second = START_NS + 2_000_000_000
    found = compared(live, run, start_ns=second)
    assert not found.is_different
    assert all(0 < line.frames[0] < FRAMES for line in found.lines)
    assert compared(live, run, end_ns=second).is_different


def written(
    bootstrap: str, prefix: str, records: Sequence[Record], only: Callable[[str], bool], partitions: int = PARTITIONS
) -> Kafka:
    """Records in topics of a prefix; those of `only`, which are made."""
    kafka = Kafka(bootstrap=bootstrap, partitions=partitions).model_copy(update={"prefix": prefix})
    topics = {t.name: t for t in (RAW, VALIDATED, ESTIMATES, STATE)} | {f"changelog.{t.name}": t for t in CHANGELOGS}
    create_topics(kafka, [topic for name, topic in topics.items() if only(name)])
    names = {name: topic.full_name(prefix) for name, topic in topics.items()}
    producer = Producer({**client_settings(kafka), "enable.idempotence": True})
    for record in records:
        if only(record.topic):
            producer.produce(names[record.topic], record.data(), record.key, record.partition)
    assert producer.flush(30) == 0
    return kafka


def twin(config: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and output of `twin compare`."""
    found = CliRunner().invoke(app, ["compare", *arguments, "--config", str(config)])
    return found.exit_code, found.output


@pytest.mark.services
def test_the_command_names_the_first_reading(kafka: str, tmp_path: Path) -> None:
    """A changed estimate: its asset, tag, time, frame, row, column, both values; equal states; and who is as folded."""
    config = tmp_path / "plant.toml"
    config.write_text(f'[kafka]\nbootstrap = "{kafka}"\nprefix = "cmp"\npartitions = {PARTITIONS}\n')
    live = flow().records
    run = list(live)
    at = index_of(run, ESTIMATES.name, "cmp-B", 5)
    frame = decode_as(run[at].value, EstimateFrame)
    estimate = frame.estimate.copy()
    estimate[2] += 0.125
    run[at] = replace(run[at], value=encode(replace(frame, estimate=estimate)))
    written(kafka, "cmp", live, lambda topic: True)
    written(kafka, "cmp.run.bit", run, lambda topic: topic in OF_STAGE)
    written(kafka, "cmp.run.same", live, lambda topic: topic in OF_STAGE)
    code, text = twin(config, "cmp", "same", "--json")
    assert (code, json.loads(text)["result"]) == (0, "equal")
    code, text = twin(config, "cmp", "cmp.run.bit", "--json")
    assert code == 1
    first = json.loads(text)["first"]
    assert (first["stage"], first["asset"], first["seq"], first["index"]) == ("estimation", "cmp-B", 5, 2)
    assert (first["tag"], first["column"]) == ("temperature", "estimate")
    assert first["time_ns"] == int(frame.source_time_ns[2])
    assert float(first["run"]) == float(first["live"]) + 0.125
    assert first["states"] == []
    assert first["states_from"] == [f"{side}: folded from nothing, and 5 frames from input offset {n} on" for side, n in
                                    zip(("LIVE", "RUN"), first_offsets(live), strict=True)]  # fmt: skip
    assert first["verdict"] == "a fold gives what LIVE has, and not what RUN has"
    code, text = twin(config, "cmp", "bit")
    assert code == 1
    assert "First difference: asset cmp-B, tag temperature" in text
    assert "DIFFERENT: 1 of 2 assets" in text
    code, text = twin(config, "cmp", "nobody")
    assert code == 1
    assert "there are no topics" in text


def first_offsets(records: Sequence[Record]) -> tuple[int, int]:
    """The offset of cmp-B's first validated frame in its partition; it is the same on both sides."""
    home = home_partition(b"cmp-B", PARTITIONS)
    there = [r for r in records if r.topic == VALIDATED.name and r.partition == home]
    offset = next(i for i, r in enumerate(there) if r.key == b"cmp-B")
    return offset, offset


@pytest.mark.services
def test_states_before_are_told_apart(kafka: str, tmp_path: Path) -> None:
    """Where a run lacked a frame of raw, the first reading behind it differs, and so do the states before it."""
    config = tmp_path / "plant.toml"
    config.write_text(f'[kafka]\nbootstrap = "{kafka}"\nprefix = "cmps"\npartitions = {PARTITIONS}\n')
    less = Flow("cmp")
    less.fill(FRAMES)
    less.frames = [f for f in less.frames if (f.asset, f.seq) != ("cmp-A", 4)]
    less.run()
    written(kafka, "cmps", flow().records, lambda topic: True)
    written(kafka, "cmps.run.less", less.records, lambda topic: True)
    code, text = twin(config, "cmps", "less", "--json")
    found = json.loads(text)
    assert code == 1
    assert f"validation: RUN lacks cmp-A, mqtt-1, epoch {START_NS}, seq 4" in found["found"]
    first = found["first"]
    assert (first["asset"], first["seq"]) == ("cmp-A", 5)
    assert any("temperature" in text for text in first["states"])
    assert first["verdict"] == "each side is what its own input and state give"


@pytest.mark.services
def test_after_a_rescale_the_topics_at_work_are_meant(kafka: str, tmp_path: Path) -> None:
    """The configured prefix means the generation at work; a run of before, in other partitions, is compared with it,
    and what is folded for it is the raw at work. A name that is a prefix and a run is refused."""
    config = tmp_path / "plant.toml"
    config.write_text(f'[kafka]\nbootstrap = "{kafka}"\nprefix = "cmpg"\npartitions = {PARTITIONS}\n')
    live = flow().records
    moved = [replace(r, partition=home_partition(r.key, 7)) for r in live]
    run = list(live)
    at = index_of(run, VALIDATED.name, "cmp-B", 5)
    frame = decode_as(run[at].value, ValidatedFrame)
    value = frame.value.copy()
    value[2] += 0.125
    run[at] = replace(run[at], value=encode(replace(frame, value=value)))
    written(kafka, "cmpg.g2", moved, lambda topic: not topic.startswith("changelog"), 7)
    written(kafka, "cmpg.run.old", run, lambda topic: topic in OF_STAGE)
    configured = Kafka(bootstrap=kafka, prefix="cmpg", partitions=PARTITIONS)
    write(configured, Plan(active=Generation(number=2, prefix="cmpg.g2", partitions=7), highest=2))
    code, text = twin(config, "old", "cmpg", "--json")
    first = json.loads(text)["first"]
    assert code == 1
    assert (first["stage"], first["asset"], first["seq"], first["index"]) == ("validation", "cmp-B", 5, 2)
    assert all("folded from nothing, and 5 frames" in origin for origin in first["states_from"]), first["states_from"]
    assert first["verdict"] == "a fold gives what RUN has, and not what LIVE has"
    written(kafka, "old", live, lambda topic: topic in OF_STAGE)
    code, text = twin(config, "cmpg", "old")
    assert code == 1
    assert "'old' is a prefix of topics and a run: 'cmpg.run.old' is the run" in text


@pytest.mark.services
def test_a_replay_is_what_ran(kafka: str, tmp_path: Path) -> None:
    """`twin replay` as live compares equal to the byte; one with other settings differs; joined frames are refused."""
    config, changed = tmp_path / "plant.toml", tmp_path / "changed.toml"
    config.write_text(f'[kafka]\nbootstrap = "{kafka}"\nprefix = "cmpr"\npartitions = {PARTITIONS}\n')
    changed.write_text('[tags."*/pressure"]\nestimation = { measurement_noise = 0.5 }\n')
    written(kafka, "cmpr", flow().records, lambda topic: True)
    replay = ["replay", "--from", "beginning", "--to", "now", "--workers", "1", "--config", str(config)]
    for name, more in (
        ("again", ["--frames", "as-live"]),
        ("whatif", ["--frames", "as-live", "--params", str(changed)]),
        ("wide", ["--frames", "wide"]),
    ):
        done = CliRunner().invoke(app, [*replay, "--run", name, *more])
        assert done.exit_code == 0, done.output
    code, text = twin(config, "cmpr", "again")
    assert code == 0, text
    assert f"equal: {2 * FRAMES * 3} frames of 2 assets, to the byte" in text
    code, text = twin(config, "cmpr", "whatif")
    assert code == 1
    assert "was made with other settings" in text
    assert "stage estimation" in text
    assert "tag pressure" in text
    assert "a fold gives what LIVE has, and not what RUN has" in text
    code, text = twin(config, "cmpr", "whatif", "--params", str(changed))
    assert code == 1
    assert "was made with other settings" not in text
    assert "each side is what its own input and state give" in text
    assert twin(config, "cmpr", "wide")[0] == 2
    config.write_text(f'[kafka]\nbootstrap = "{kafka}"\nprefix = "cmpr"\npartitions = {PARTITIONS + 1}\n')
    code, text = twin(config, "cmpr", "again")  # as after a rescale: sides need not have what is configured now
    assert code == 0, text
