"""Corrections on a real Kafka and a real InfluxDB, beside what the sink stored live."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from confluent_kafka import Producer

from kernels.settings import kernel_settings
from kernels.stage import fold
from kernels.stages import STAGES
from queries.api import Queries
from replay.correct.correction import correct
from replay.results.provenance import Corrected
from replay.results.run_record import published
from replay.run import Request, RequestError, replay
from replay.sources.topic import Reader
from runtime.changelog import Row, pack
from runtime.config import Influxdb, Kafka, Plant
from runtime.kafka import client_settings
from runtime.partitions import home_partition
from schemas.codec import encode
from schemas.frames import Frame
from schemas.quality import Mark, Test
from schemas.states import StageState
from schemas.topics import CHANGELOGS, RAW
from services.influxdb import InfluxDB
from store.record_lines import lines_of
from tests.replay.made_runs import frames as made
from tests.replay.raw_topic import MIDNIGHT_MS, PARTITIONS, raw_topic
from tests.replay.test_replay_influx import bucket, configured, store, twin

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]
SECOND_NS = 1_000_000_000
START_NS = (MIDNIGHT_MS - 3_600_000) * 1_000_000
SECONDS, LATE, CAME = 120, range(40, 60), 90
TAGS = ("temperature", "pressure")
ASSETS = WITH_STATE, WITHOUT, IN_TIME = "R-state", "R-without", "R-in-time"
SETTINGS = kernel_settings(Plant())


def sent(asset: str) -> list[Frame]:
    """A frame a second, with a reading of each tag that was taken 0.2 s before."""
    noise = np.random.default_rng(len(asset)).normal(0.0, 0.5, (2, SECONDS))
    series = {"temperature": 85 + noise[0], "pressure": 2.5 + noise[1] / 100}
    shift = START_NS - 1_700_000_000 * SECOND_NS
    return [
        replace(
            frame,
            time_ns=frame.time_ns + shift,
            source_time_ns=frame.source_time_ns + shift,
            arrival_time_ns=frame.source_time_ns + shift + SECOND_NS // 5,
        )
        for frame in made(asset, series, per_frame=1)
    ]


def some(frame: Frame, rows: list[int]) -> Frame:
    """A frame of some of its readings."""
    names = ("tag", "source_time_ns", "server_time_ns", "arrival_time_ns", "value", "status", "mark")
    return replace(frame, **{name: getattr(frame, name)[rows] for name in names})


def came(asset: str) -> list[Frame]:
    """The same, but all temperatures of LATE come together with second CAME; nothing does for the asset in time."""
    frames = sent(asset)
    if asset == IN_TIME:
        return frames
    late, host = [frames[s] for s in LATE], frames[CAME]
    names = ("tag", "source_time_ns", "server_time_ns", "value", "status", "mark")
    columns = {name: np.concatenate([getattr(f, name)[[0]] for f in late] + [getattr(host, name)]) for name in names}
    arrival = np.full(len(late) + 2, host.arrival_time_ns[0])
    found = [some(f, [1]) if s in LATE else f for s, f in enumerate(frames)]
    found[CAME] = replace(host, arrival_time_ns=arrival, **columns)
    return found


def folded(asset: str, outputs: Sequence[Any]) -> dict[str, tuple[StageState, list[Any]]]:
    """Of each stage the state after frames of an asset, and what it gave for them."""
    found = {}
    for name, entry in STAGES.items():
        steps = list(fold(entry.stage, entry.stage.initial(asset), outputs, entry.params_from(SETTINGS)))
        outputs = [out for _, out, _ in steps]
        found[name] = (steps[-1][0], outputs)
    return found


def fill(kafka: Kafka) -> None:
    """Raw of all assets, and for the one with a state the changelogs' rows after 30 frames."""
    producer = Producer({**client_settings(kafka), "enable.idempotence": True})
    for second, turn in enumerate(zip(*map(came, ASSETS), strict=True)):
        for frame in turn:
            key = frame.asset.encode()
            time_ms = START_NS // 1_000_000 + second * 1000 + 200
            name = RAW.full_name(kafka.prefix)
            producer.produce(name, encode(frame), key, home_partition(key, PARTITIONS), timestamp=time_ms)
    key = WITH_STATE.encode()
    home = home_partition(key, PARTITIONS)
    together = [asset for asset in ASSETS if home_partition(asset.encode(), PARTITIONS) == home]
    position = 29 * len(together) + together.index(WITH_STATE)
    states = [state for state, _ in folded(WITH_STATE, came(WITH_STATE)[:30]).values()]
    for changelog, state in zip(CHANGELOGS, states, strict=True):
        producer.produce(changelog.full_name(kafka.prefix), pack(Row(position, state)), key, home)
    assert producer.flush(30) == 0


def live_points() -> list[str]:
    """The sink's lines of what the stages make of raw."""
    results = [folded(asset, came(asset)) for asset in ASSETS]
    records = [record for found in results for stage in ("estimation", "twin") for record in found[stage][1]]
    return [line for record in records for line in lines_of(record)[0]]


def in_order(asset: str) -> dict[str, list[tuple[int, bytes]]]:
    """Per tag, of each reading its time, and value, estimate, rate, deviation, flag and tests: a fold of what was sent
    in order."""
    found: dict[str, list[tuple[int, bytes]]] = {tag: [] for tag in TAGS}
    for frame in folded(asset, sent(asset))["estimation"][1]:
        for i in range(len(frame)):
            numbers = [getattr(frame, n)[i] for n in ("value", "estimate", "rate", "std", "innovation", "nis")]
            verdict = [float(frame.flag[i]), float(frame.tests[i])]
            found[frame.tags[frame.tag[i]]].append(
                (int(frame.source_time_ns[i]), np.array(numbers + verdict).tobytes())
            )
    return found


def rows(table: pd.DataFrame) -> list[tuple[int, bytes]]:
    """The same of stored readings."""
    columns = ["value", "estimate", "rate", "std", "innovation", "nis", "flag", "tests"]
    numbers = table[columns].to_numpy("float64")
    times = table.index.astype("int64").to_list()
    return [(time, row.tobytes()) for time, row in zip(times, numbers, strict=True)]


def stored(database: Influxdb, asset: str, tag: str, run: str = "") -> pd.DataFrame:
    """Readings of a run, or live ones."""
    with Queries(database, run=run) as queries:
        return queries.range(asset, tag, START_NS - SECOND_NS, START_NS + 3600 * SECOND_NS)


def test_late_readings_are_corrected_beside_what_is_there(kafka: str, influx: InfluxDB, tmp_path: Path) -> None:
    """From the place of the first late reading on, corrected points are what a fold gives to which everything came in
    order, to the bit, from a live state or a warm-up; live points stay, the next correction is the next version with
    the same values; an asset with nothing late has no corrected points, and where nothing is, that is said."""
    raw, database = raw_topic(kafka, "corrected"), bucket(influx, tmp_path, "corrected")
    fill(raw)
    plant = Plant(kafka=raw, influxdb=database)
    store(database, live_points())
    live = {(asset, tag): stored(database, asset, tag) for asset in ASSETS for tag in TAGS}
    assert {int(n) for n in live[WITHOUT, "temperature"]["tests"]} >= {int(Test.LATE)}
    config = configured(tmp_path, raw, database)
    span = ("--from", "beginning", "--to", "now")
    said = twin(config, "correct", *span, "--workers", "2")
    assert "corrected-1" in said
    twin(config, "correct", *span)
    for asset in (WITH_STATE, WITHOUT):
        for tag in TAGS:
            first, second = (stored(database, asset, tag, f"corrected-{version}") for version in (1, 2))
            assert rows(first) == in_order(asset)[tag][LATE.start :]
            pd.testing.assert_frame_equal(first, second, check_exact=True)
        moved = stored(database, asset, "temperature", "corrected-1")["mark"] & int(Mark.REORDERED)
        assert np.flatnonzero(moved).tolist() == list(range(len(LATE)))
    with Queries(database) as queries:
        assert queries.runs() == ["corrected-1", "corrected-2"]
        overlaid = queries.corrected(WITHOUT, "temperature", START_NS - SECOND_NS)
    assert rows(overlaid) == in_order(WITHOUT)["temperature"]
    assert overlaid["version"].tolist() == [0] * LATE.start + [2] * (SECONDS - LATE.start)
    ask = ("query", "range", WITHOUT, "temperature", "--start", str(START_NS - SECOND_NS), "--format", "csv")
    assert twin(config, *ask, "--corrected").count("\n") == 1 + SECONDS
    assert stored(database, IN_TIME, "temperature", "corrected-1").empty
    assert "nothing to correct" in twin(config, "correct", *span, "--assets", IN_TIME)
    with Queries(database) as queries:
        assert queries.runs() == ["corrected-1", "corrected-2"]
    for (asset, tag), before in live.items():
        pd.testing.assert_frame_equal(stored(database, asset, tag), before, check_exact=True)
    with closing(Reader(raw)) as reader:
        told = published(reader, raw, "corrected-2")
    assert told is not None
    states = {asset: found.state for asset, found in told.corrected.items()}
    assert states == {WITH_STATE: "live", WITHOUT: "a warm-up of 600 s"}
    short = Request(plant=plant, begin=at(CAME), end=at(CAME + 1), run="corrected", state="warmup=5s", to="parquet",
                    out=tmp_path)  # fmt: skip
    files = correct(short)
    assert files is not None
    assert files.provenance is not None
    assert files.provenance.run == "corrected-3"
    assert files.provenance.corrected[WITHOUT] == Corrected(
        late=len(LATE), corrected=len(LATE), from_ns=START_NS + LATE.start * SECOND_NS,
        offset=told.corrected[WITHOUT].offset, state="a warm-up of 5 s",
    )  # fmt: skip
    assert (tmp_path / "corrected-3" / "run.json").read_bytes() == files.provenance.as_json()
    with pytest.raises(RequestError, match="--run 'corrected-4': such names are those of `twin correct`"):
        replay(replace(short, run="corrected-4"))


def at(second: int) -> str:
    """The time of a second of the series, before its frame."""
    return str(np.datetime64(START_NS + second * SECOND_NS, "ns"))[:23]
