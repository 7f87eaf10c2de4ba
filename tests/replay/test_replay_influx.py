"""A replay into a real InfluxDB: under a tag of its own, beside live points of the very same readings."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from cli.main import app
from queries.api import Queries
from replay.results.writers import WriteError, run_kafka
from replay.run import Request, Result, replay
from replay.sources.topic import TopicSource, spans_of
from replay.workers import ReplayError
from runtime.config import Influxdb, Kafka, Plant, Sink
from schemas.codec import decode
from schemas.topics import ALERTS, ESTIMATES, STATE
from services.influx_tokens import InfluxApi
from services.influxdb import InfluxDB
from store.influx_writer import InfluxWriter
from store.record_lines import lines_of
from tests.replay.raw_topic import ASSETS, MIDNIGHT_MS, fill, raw_topic

pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]
BEGIN_NS, END_NS = (MIDNIGHT_MS - 3_600_000) * 1_000_000, (MIDNIGHT_MS + 3_600_000) * 1_000_000
Tables = dict[tuple[str, str], pd.DataFrame]


@pytest.fixture
def database(influx: InfluxDB, tmp_path: Path, request: pytest.FixtureRequest) -> Influxdb:
    """A bucket of its own."""
    return bucket(influx, tmp_path, request.node.name)


def bucket(influx: InfluxDB, tmp_path: Path, name: str) -> Influxdb:
    """A new bucket, in which nobody has ever heard of a run."""
    api = InfluxApi(influx.url, influx.token)
    org = api.ask(f"/api/v2/orgs?org={influx.org}")["orgs"][0]["id"]
    api.ask("/api/v2/buckets", {"orgID": org, "name": name, "retentionRules": []})
    file = tmp_path / "token"
    file.write_text(influx.token)
    return Influxdb(url=influx.url, org=influx.org, bucket=name, token_file=file)


def replayed(kafka: Kafka, influxdb: Influxdb, run: str, **asked: object) -> Result:
    """A replay of everything."""
    plant = Plant(kafka=kafka, influxdb=influxdb, sink=Sink(batch_lines=70))
    whole = {"begin": "beginning", "end": "now", "to": "influxdb", "workers": 2}
    return replay(Request(plant=plant, run=run, **{**whole, **asked}))  # type: ignore[arg-type]


def configured(folder: Path, kafka: Kafka, influxdb: Influxdb) -> Path:
    """A plant's file."""
    config = folder / "plant.toml"
    config.write_text(
        f'[kafka]\nbootstrap = "{kafka.bootstrap}"\nprefix = "{kafka.prefix}"\npartitions = {kafka.partitions}\n'
        f'[influxdb]\nurl = "{influxdb.url}"\norg = "{influxdb.org}"\nbucket = "{influxdb.bucket}"\n'
        f'token_file = "{influxdb.token_file}"\n'
    )
    return config


def twin(config: Path, *arguments: str) -> str:
    """What the command line says; it must end well."""
    done = CliRunner().invoke(app, [*arguments, "--config", str(config)])
    assert done.exit_code == 0, done.output
    return done.stdout


def store(influxdb: Influxdb, lines: list[str]) -> None:
    """Write as the sink does."""

    async def stored() -> None:
        async def fail(sentence: str) -> None:
            raise AssertionError(sentence)

        writer = InfluxWriter(influxdb, 10.0, fail)
        assert await writer.write(lines) == []
        await writer.close()

    asyncio.run(stored())


def live_lines(kafka: Kafka) -> Iterator[str]:
    """The sink's lines of estimates, states and alerts."""
    for topic in (ESTIMATES, STATE, ALERTS):
        name = topic.full_name(kafka.prefix)
        with closing(TopicSource(kafka, name)) as source:
            for partition, span in spans_of(kafka, name).items():
                for record in (one for batch in source.read(partition, *span) for one in batch):
                    yield from lines_of(decode(record.value or b""))[0]


def tables(influxdb: Influxdb, run: str = "") -> Tables:
    """Every reading of every tag, of a run or live, with the newest state of every asset and windows."""
    with Queries(influxdb, run=run) as queries:
        found = {
            (asset, tag): queries.range(asset, tag, BEGIN_NS, END_NS) for asset in ASSETS for tag in queries.tags(asset)
        }
        window: Callable[..., pd.DataFrame] = queries.window
        found |= {(a, f"{t} window"): window(a, t, BEGIN_NS, END_NS, every="10s") for a, t in list(found)}
        for asset in {asset for asset, _ in found}:
            found[asset, "state"] = pd.Series(queries.state(asset)).to_frame()
    return found


def equal(one: Tables, other: Tables) -> None:
    """Assert that tables are the same to the bit."""
    assert one.keys() == other.keys()
    for key, table in one.items():
        pd.testing.assert_frame_equal(table, other[key], check_exact=True)


def test_a_run_has_every_reading_and_live_ones_are_untouched(kafka: str, database: Influxdb, tmp_path: Path) -> None:
    """Under its tag a run has all that the sink stored, bit for bit; live answers are the same before and after
    runs; a name is used once."""
    raw = raw_topic(kafka, "points")
    fill(raw, 0, 30)
    replayed(raw, database, "as-sink", to="topics")
    store(database, list(live_lines(run_kafka(raw, "as-sink"))))
    before = tables(database)
    assert {asset for asset, _ in before} == set(ASSETS)
    done = replayed(raw, database, "same")
    of_run = tables(database, "same")
    equal(of_run, before)
    readings = sum(len(table) for (_, name), table in of_run.items() if "window" not in name and name != "state")
    assert readings == done.counts.readings == 30 * len(ASSETS) * 4
    config = configured(tmp_path, raw, database)
    some = twin(config, "replay", "--run", "some", "--assets", "R-1", "--from", "beginning", "--to", "now",
                "--to-where", "influxdb", "--workers", "1")  # fmt: skip
    assert "readings/s" in some
    tag = next(name for asset, name in before if asset == "R-1")
    values = twin(config, "query", "range", "R-1", tag, "--start", str(BEGIN_NS), "--run", "some", "--format", "csv")
    assert values == twin(config, "query", "range", "R-1", tag, "--start", str(BEGIN_NS), "--format", "csv")
    assert values.count("\n") == 1 + len(before["R-1", tag])
    assert {asset for asset, _ in tables(database, "some")} == {"R-1"}
    equal(tables(database), before)
    equal(tables(database, "same"), before)
    assert tables(database, "nobody") == {}
    with pytest.raises(WriteError, match="--run 'same': InfluxDB has points of it already"):
        replayed(raw, database, "same")


def test_a_refused_line_fails_the_run(kafka: str, influx: InfluxDB, database: Influxdb, tmp_path: Path) -> None:
    """What InfluxDB does not take is the run's error with InfluxDB's reason, and so is a token that may not write or
    read; a run without a database ends, too."""
    raw = raw_topic(kafka, "points-refused")
    fill(raw, 0, 3)
    store(database, [f'reactor_sensor,reactor_id=other value="a text" {(MIDNIGHT_MS - 20_000) * 1_000_000}'])
    with pytest.raises(ReplayError, match="field type conflict"):
        replayed(raw, database, "conflict")
    reads = Influxdb(url=influx.url, org=influx.org, bucket=influx.bucket, token_file=influx.tokens_dir / "viewer")
    with pytest.raises(ReplayError, match="InfluxDB does not store"):
        replayed(raw, reads, "reader")
    (tmp_path / "wrong").write_text("wrong")
    with pytest.raises(WriteError, match="--to-where influxdb: InfluxDB 401"):
        replayed(raw, reads.model_copy(update={"token_file": tmp_path / "wrong"}), "nobody")
    with pytest.raises(WriteError, match="does not answer"):
        replayed(raw, reads.model_copy(update={"url": "http://127.0.0.1:9"}), "nowhere")
