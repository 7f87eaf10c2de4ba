"""The sink against a real InfluxDB, alone and with a proxy in front that misbehaves."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from agents.sink import UNAUTHORISED, Sink
from queries.api import Queries
from runtime.config import Plant
from schemas.codec import decode_as
from schemas.frames import EstimateFrame
from schemas.quality import Mark
from schemas.records import Alert, Rejected, TwinState, Variable, Window
from schemas.states import StageState
from schemas.topics import ALERTS, STATE
from services.influxdb import InfluxDB
from store import influx_writer
from store.line_protocol import reading_lines
from tests.agents.fault_proxy import FaultProxy, Trouble, fault_proxy
from tests.agents.sink_samples import START_NS, WEIRD, frame, plant_with_bucket, received

pytestmark = pytest.mark.services
END_NS = START_NS + 10**15


class Bench:
    """A sink whose rejected records and alerts are kept here."""

    def __init__(self, plant: Plant) -> None:
        self.plant = plant
        self.rejected: list[Rejected] = []
        self.alerts: list[Alert] = []
        self.beats = 0
        self.sink = Sink(plant, reject=self._reject, warn=self._warn, heartbeat=self._beat)

    async def _reject(self, rejected: Rejected) -> None:
        self.rejected.append(rejected)

    async def _warn(self, alert: Alert) -> None:
        self.alerts.append(alert)

    def _beat(self) -> None:
        self.beats += 1

    async def store(self, *frames: EstimateFrame) -> None:
        """One batch, and the end of the sink."""
        await self.sink.handle([received(f, offset) for offset, f in enumerate(frames)])
        await self.sink.close()

    def values(self, tag: str = "temperature") -> list[float]:
        """What InfluxDB holds, by time."""
        with Queries(self.plant.influxdb) as queries:
            return list(queries.range("R101", tag, START_NS, END_NS)["value"])


@pytest.fixture
def bench(influx: InfluxDB, tmp_path: Path, request: pytest.FixtureRequest) -> Bench:
    """A sink that writes to a bucket of this test."""
    return Bench(plant_with_bucket(influx, request.node.name, tmp_path))


@pytest.fixture
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries after 50 ms: the tests are about what is tried again, not about how long it waits."""
    monkeypatch.setattr(influx_writer, "FIRST_DELAY_S", 0.05)
    monkeypatch.setattr(influx_writer, "FIRST_DELAY_REFUSED_S", 0.05)


async def test_weird_floats_come_back_to_the_bit(bench: Bench) -> None:
    """−0.0, denormals, 1e308 and 5,000 random doubles come out of InfluxDB with the same bits, at the same ns."""
    bits = np.random.default_rng(3).integers(0, 2**64, 5000, dtype=np.uint64).view("<f8")
    values = np.concatenate([WEIRD, bits[np.isfinite(bits)], [np.inf, -np.inf]])
    await bench.store(frame(values))
    with Queries(bench.plant.influxdb) as queries:
        found = queries.range("R101", "temperature", START_NS, END_NS)
    assert found["value"].to_numpy().tobytes() == values.tobytes()
    assert found.index.astype("int64").tolist() == (START_NS + np.arange(len(values)) * 1_000_000).tolist()
    assert bench.rejected == []


async def test_texts_come_back_as_they_were(bench: Bench) -> None:
    """The text that came instead of a number is stored whole: quotes, line ends, emoji, 100,000 letters."""
    texts = ["Bad", 'a"b\\c', "d\ne\r\nf", "😀,=", "\x00\x01", "x" * 100_000, ""]
    whole = frame(np.full(len(texts), np.nan), texts=dict(enumerate(texts)))
    whole.mark[:] = Mark.TEXT
    await bench.store(whole)
    with Queries(bench.plant.influxdb) as queries:
        found = queries.range("R101", "temperature", START_NS, END_NS)
    assert list(found["text"]) == texts
    assert found["value"].isna().all()


async def test_names_with_any_allowed_character_are_found_again(bench: Bench) -> None:
    """Tags with commas, spaces, equal signs, quotes and emoji are stored under their own names."""
    tags = ("a b,c=d", "jacket/temperature", "quo'te\"", "😀", "back\\slash")
    await bench.store(frame(np.arange(5.0), tags=tags, units=("m,=/ s",) * 5))
    with Queries(bench.plant.influxdb) as queries:
        assert queries.tags("R101") == sorted(tags)
        assert [queries.latest("R101", tag)["value"] for tag in tags] == [0.0, 1.0, 2.0, 3.0, 4.0]
        assert queries.latest("R101", tags[0])["unit"] == "m,=/ s"


async def test_one_poisonous_line_stops_no_other(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Of 5,000 lines, one of which InfluxDB does not take, 4,999 are stored and one is rejected with its reason; the
    log says so in one line.
    """

    def with_poison(whole: EstimateFrame) -> object:
        lines, refused = reading_lines(whole)
        lines[1234] = lines[1234].replace("value=", "value=poison")
        return lines, refused

    monkeypatch.setattr("store.record_lines.reading_lines", with_poison)
    await bench.store(frame(np.arange(5000.0)))
    assert bench.values() == [float(n) for n in range(5000) if n != 1234]
    (rejected,) = bench.rejected
    assert "400" in rejected.reason
    assert b"value=poison1234.0" in rejected.payload
    assert (rejected.stage, rejected.asset, rejected.offset) == ("sink", "R101", 0)
    assert caplog.text.count("1 of 5000 lines cannot be stored") == 1
    assert (rejected.tag, rejected.time_ns) == ("temperature", START_NS + 1234 * 1_000_000 + 500)


async def test_what_is_no_record_is_rejected_and_the_rest_stored(bench: Bench) -> None:
    """Bytes that cannot be decoded, records of other types and impossible times are rejected, each on its own."""
    times = np.array([START_NS, 2**63 - 1])
    batch = [
        received(b"garbage", 1),
        received(StageState(stage="twin", asset="R101"), 2),
        received(frame(np.array([1.0, 2.0]), source_time_ns=times), 3),
        received(Alert(asset="R101", kind="k", severity="info", time_ns=-(2**63), message=""), 4, ALERTS),
        received(frame(np.array([3.0]), seq=1, start_ns=START_NS + 1), 5),
    ]
    await bench.sink.handle(batch)
    await bench.sink.close()
    assert bench.values() == [1.0, 3.0]
    assert [r.offset for r in bench.rejected] == [1, 2, 3, 4]
    assert bench.rejected[0].payload == b"garbage"
    alone = decode_as(bench.rejected[2].payload, EstimateFrame)
    assert (alone.value.tolist(), alone.estimate.tolist(), alone.source_time_ns[0]) == ([2.0], [2.5], 2**63 - 1)
    assert (bench.rejected[2].tag, bench.rejected[2].time_ns) == ("temperature", START_NS + 1_000_500)
    assert bench.rejected[3].time_ns == -(2**63)
    assert all(r.stage == "sink" and r.asset == "R101" and r.topic.startswith("twin.") for r in bench.rejected)


async def test_states_windows_and_alerts_are_stored(bench: Bench) -> None:
    """A twin state, its closed windows and an alert are stored; of two states of one time the later stays."""
    window = Window(tag="temperature", window_s=1.0, start_ns=START_NS, count=2, mean=1.5, min=1.0, max=2.0)
    states = [
        TwinState(
            asset="R101", source="mqtt-1", epoch=1, seq=seq, time_ns=START_NS, clock_ns=START_NS, model="batch_reactor",
            variables={"temperature": Variable(value=85.0 + seq, unit="degC")}, windows=(window,),
        )
        for seq in range(2)
    ]  # fmt: skip
    alert = Alert(asset="R101", kind="drift", severity="warning", time_ns=START_NS, message="m", tag="temperature")
    await bench.sink.handle([*(received(s, i, STATE) for i, s in enumerate(states)), received(alert, 0, ALERTS)])
    await bench.sink.close()
    with Queries(bench.plant.influxdb) as queries:
        assert queries.state("R101")["temperature_degC"] == 86.0
        client = queries._client
        assert client.texts('SELECT "mean" FROM "reactor_window"', {})[0]["mean"] == "1.5"
        assert client.texts('SELECT "message" FROM "reactor_alert"', {})[0]["message"] == "m"
    assert bench.rejected == []


async def test_a_window_that_cannot_be_stored_is_rejected_alone(bench: Bench) -> None:
    """The window of a tag that InfluxDB cannot have is rejected; the state and the other windows are stored."""
    windows = tuple(
        Window(tag=tag, window_s=1.0, start_ns=START_NS, count=1, mean=1.5, min=1.5, max=1.5) for tag in ("a\\", "ph")
    )
    state = TwinState(
        asset="R101",
        source="mqtt-1",
        epoch=1,
        seq=0,
        time_ns=START_NS,
        clock_ns=START_NS,
        model="none",
        windows=windows,
    )
    await bench.sink.handle([received(state, 5, STATE)])
    await bench.sink.close()
    with Queries(bench.plant.influxdb) as queries:
        assert queries.state("R101")["seq"] == 0
        assert len(queries._client.texts('SELECT "mean" FROM "reactor_window"', {})) == 1
    (rejected,) = bench.rejected
    assert (rejected.stage, rejected.offset, rejected.tag, rejected.time_ns) == ("sink", 5, "a\\", START_NS)
    assert decode_as(rejected.payload, TwinState).windows == windows[:1]


async def test_a_large_batch_goes_in_several_requests(influx: InfluxDB, tmp_path: Path) -> None:
    """No request has more lines than `sink.batch_lines` and one frame, and nothing is lost between requests."""
    plant = plant_with_bucket(influx, "several", tmp_path)
    with fault_proxy(influx.url) as proxy:
        settings = plant.influxdb.model_copy(update={"url": proxy.url})
        sink_settings = plant.sink.model_copy(update={"batch_lines": 1000})
        bench = Bench(plant.model_copy(update={"influxdb": settings, "sink": sink_settings}))
        frames = [frame(np.arange(700.0), seq=n, start_ns=START_NS + n * 10**9) for n in range(5)]
        await bench.store(*frames)
        assert len(proxy.bodies) == 4  # 1400, 1400, 700 lines, and the times of storage
        bench.plant = plant
        assert len(bench.values()) == 3500


async def test_a_frame_tells_when_it_was_stored(bench: Bench) -> None:
    """Half a second after the last batch InfluxDB knows when the readings of each frame were confirmed."""
    await bench.sink.handle([received(frame(np.arange(3.0), seq=9))])
    await asyncio.sleep(0.8)
    with Queries(bench.plant.influxdb) as queries:
        query = 'SELECT "seq", "readings", "stored_ns" FROM "reactor_frame" WHERE "source" = $source'
        (row,) = queries._client.texts(query, {"source": "mqtt-1"})
    await bench.sink.close()
    assert (row["seq"], row["readings"]) == ("9", "3")
    assert int(row["stored_ns"]) > START_NS


def always(status: int, retry_after: str | None = None) -> Callable[[FaultProxy], None]:
    """A trouble of three equal answers."""
    return lambda proxy: proxy.troubles.extend([Trouble("answer", status, retry_after)] * 3)


TROUBLES: dict[str, Callable[[FaultProxy], None]] = {
    "429": always(429),
    "500": always(500),
    "503": always(503),
    "half_closed": lambda proxy: proxy.troubles.extend([Trouble("half_closed")] * 3),
    "reset": lambda proxy: proxy.troubles.extend([Trouble("reset")] * 3),
    "mixed": lambda proxy: proxy.troubles.extend([Trouble("reset"), Trouble("answer", 503), Trouble("half_closed")]),
}


@pytest.mark.usefixtures("quick_retries")
@pytest.mark.parametrize("trouble", TROUBLES)
async def test_troubles_of_the_database_are_waited_out(influx: InfluxDB, tmp_path: Path, trouble: str) -> None:
    """429, 500, 503, reset and half-closed connections are tried again until stored; nothing is rejected or doubled."""
    plant = plant_with_bucket(influx, f"trouble-{trouble}", tmp_path)
    with fault_proxy(influx.url) as proxy:
        TROUBLES[trouble](proxy)
        behind = plant.influxdb.model_copy(update={"url": proxy.url})
        bench = Bench(plant.model_copy(update={"influxdb": behind}))
        await bench.store(frame(np.arange(50.0)))
        assert len(proxy.times_s) == 5  # three troubles, the batch, the times of storage
    bench.plant = plant
    assert bench.values() == [float(n) for n in range(50)]
    assert bench.rejected == []
    assert bench.alerts == []


async def test_a_time_out_is_tried_again(influx: InfluxDB, tmp_path: Path) -> None:
    """A request without an answer within `sink.timeout_s` is tried again, and the watchdog is told meanwhile."""
    plant = plant_with_bucket(influx, "time-out", tmp_path)
    with fault_proxy(influx.url) as proxy:
        proxy.troubles.append(Trouble("hang"))
        changes = {
            "influxdb": plant.influxdb.model_copy(update={"url": proxy.url}),
            "sink": plant.sink.model_copy(update={"timeout_s": 2.5}),
        }
        bench = Bench(plant.model_copy(update=changes))
        await bench.store(frame(np.arange(5.0)))
        assert bench.beats >= 2
    bench.plant = plant
    assert bench.values() == [0.0, 1.0, 2.0, 3.0, 4.0]


async def test_retry_after_is_obeyed(influx: InfluxDB, tmp_path: Path) -> None:
    """After 429 with Retry-After: 1 the next attempt comes 1 s later, not sooner."""
    plant = plant_with_bucket(influx, "retry-after", tmp_path)
    with fault_proxy(influx.url) as proxy:
        proxy.troubles.append(Trouble("answer", 429, "1"))
        bench = Bench(plant.model_copy(update={"influxdb": plant.influxdb.model_copy(update={"url": proxy.url})}))
        await bench.store(frame(np.arange(5.0)))
        assert 1.0 <= proxy.times_s[1] - proxy.times_s[0] < 1.5


async def test_too_large_a_body_is_cut(influx: InfluxDB, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """413 halves the request until it passes; every reading is stored, and the log says once what happens."""
    plant = plant_with_bucket(influx, "too-large", tmp_path)
    with fault_proxy(influx.url) as proxy:
        proxy.always = Trouble("answer", 413, largest_body=20_000)
        bench = Bench(plant.model_copy(update={"influxdb": plant.influxdb.model_copy(update={"url": proxy.url})}))
        await bench.store(frame(np.arange(1000.0)))
    bench.plant = plant
    assert bench.values() == [float(n) for n in range(1000)]
    assert bench.rejected == []
    assert caplog.text.count("InfluxDB 413: as told; writing 1000 lines again in halves") == 1


async def test_a_slow_database_is_named(
    influx: InfluxDB, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that takes long is told once in the log, and what it stored is stored."""
    monkeypatch.setattr(influx_writer, "SLOW_S", 0.2)
    plant = plant_with_bucket(influx, "slow", tmp_path)
    with fault_proxy(influx.url) as proxy:
        proxy.always = Trouble("slow", seconds=0.3)
        bench = Bench(plant.model_copy(update={"influxdb": plant.influxdb.model_copy(update={"url": proxy.url})}))
        await bench.store(frame(np.arange(3.0)))
    bench.plant = plant
    assert bench.values() == [0.0, 1.0, 2.0]
    assert caplog.text.count("InfluxDB is slow") == 1


@pytest.mark.usefixtures("quick_retries")
async def test_a_refused_token_raises_one_alert_and_is_waited_out(influx: InfluxDB, tmp_path: Path) -> None:
    """While InfluxDB refuses our token one alert is raised, however often it is tried; then all is stored."""
    plant = plant_with_bucket(influx, "refused", tmp_path)
    with fault_proxy(influx.url) as proxy:
        proxy.troubles.extend([Trouble("answer", 503), *[Trouble("answer", 401)] * 3])
        bench = Bench(plant.model_copy(update={"influxdb": plant.influxdb.model_copy(update={"url": proxy.url})}))
        await bench.store(frame(np.arange(5.0)))
    bench.plant = plant
    assert [(a.kind, a.severity) for a in bench.alerts] == [(UNAUTHORISED, "critical")]
    assert influx.token not in bench.alerts[0].message
    assert bench.values() == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert bench.rejected == []


@pytest.mark.usefixtures("quick_retries")
async def test_a_missing_bucket_is_waited_for(influx: InfluxDB, tmp_path: Path) -> None:
    """A bucket that does not exist is an alert and not a loss: once it is made, all is stored."""
    from tests.agents.sink_samples import make_bucket

    plant = plant_with_bucket(influx, "exists", tmp_path)
    missing = plant.model_copy(update={"influxdb": plant.influxdb.model_copy(update={"bucket": "not-yet"})})
    bench = Bench(missing)
    storing = asyncio.create_task(bench.store(frame(np.arange(5.0))))
    await asyncio.sleep(0.5)
    assert not storing.done()
    assert len(bench.alerts) == 1
    await asyncio.to_thread(make_bucket, influx, "not-yet")
    await storing
    assert bench.values() == [0.0, 1.0, 2.0, 3.0, 4.0]
