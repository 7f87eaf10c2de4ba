"""The auditor on a real InfluxDB: what it must find, one difference at a time."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest

from audit.compare import Report, compare
from audit.journal import JournalError
from audit.store import Database, StoreError
from runtime.config import Influxdb
from schemas.quality import Flag, Mark, Test
from services.influxdb import InfluxDB
from store.influx_writer import InfluxWriter

pytestmark = pytest.mark.services
START_NS = 1_760_000_000_000_000_000
SECOND_NS = 1_000_000_000


@dataclass
class World:
    """A plant's journal and the points that became of it, to be damaged before they are written."""

    influx: InfluxDB
    asset: str
    folder: Path
    lines: list[dict[str, Any]] = field(default_factory=list)
    points: list[dict[str, Any]] = field(default_factory=list)

    def reading(
        self, second: float, value: float | None, *, stored: bool = True, tag: str = "temperature", **changes: Any
    ) -> None:
        """A reading in the journal, sent 5 ms after its time, and as it would be stored (`changes` to both)."""
        time_ns = START_NS + round(second * SECOND_NS)
        line = {
            "asset": self.asset, "tag": tag, "protocol": "mqtt", "source_time_ns": time_ns,
            "value": None if value is None else value.hex(), "text": None, "unit": "degC", "fault": None,
            "truth": None, "sent_ns": time_ns + 5_000_000, "repeat": False,
        }  # fmt: skip
        verdict = {name: changes.pop(name) for name in ("quality", "tests", "estimate", "nis") if name in changes}
        self.lines.append(line | changes)
        if stored:
            sent = {"unit": changes.get("unit", "degC"), "status": changes.get("status", 0)}
            self.point(time_ns, value, tag=tag, reason=changes.get("text"), **sent, **verdict)

    def point(
        self, time_ns: int, value: float | None, *, tag: str = "temperature", unit: str = "degC", **fields: Any
    ) -> None:
        """A stored point that arrived 10 ms after its time."""
        usual = {
            "quality": 1,
            "tests": 0,
            "status": 0,
            "mark": 0,
            "arrival_ns": time_ns + 10_000_000,
            "seq": len(self.points),
        }
        self.points.append(
            {"tag": tag, "unit": unit, "time_ns": time_ns, "value": value, "source": "mqtt-1"} | usual | fields
        )

    def audit(self, **settings: Any) -> Report:
        """Write journal, points and times of storage (50 ms after the points' times), and compare."""
        path = self.folder / "journal.jsonl"
        path.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in self.lines))
        asyncio.run(
            self._store([_line(self.asset, p) for p in self.points] + [_frame_line(self.asset, p) for p in self.points])
        )
        database = Database(url=self.influx.url, bucket=self.influx.bucket, token=self.influx.token)
        return compare(database, [path], **settings)

    async def _store(self, lines: list[str]) -> None:
        async def fail(sentence: str) -> None:
            raise AssertionError(sentence)

        token = self.folder / "token"
        token.write_text(self.influx.token)
        influxdb = Influxdb(url=self.influx.url, org=self.influx.org, bucket=self.influx.bucket, token_file=token)
        writer = InfluxWriter(influxdb, 10.0, fail)
        assert await writer.write(lines) == []
        await writer.close()


def _line(asset: str, point: dict[str, Any]) -> str:
    whole = ("quality", "tests", "status", "mark", "arrival_ns", "seq")
    fields = [f"{name}={point[name]}i" for name in whole if point[name] is not None] + [f'source="{point["source"]}"']
    fields += [f"{name}={point[name]!r}" for name in ("value", "estimate", "nis") if point.get(name) is not None]
    if point.get("reason") is not None:
        fields.append(f'reason="{point["reason"]}"')
    tags = f"reactor_id={asset},sensor_type={point['tag']},unit={point['unit'] or 'none'}"
    return f"reactor_sensor,{tags} {','.join(fields)} {point['time_ns']}"


def _frame_line(asset: str, point: dict[str, Any]) -> str:
    stored_ns = point["time_ns"] + 50_000_000
    tags = f"reactor_id={asset},source={point['source']}"
    return f"reactor_frame,{tags} seq={point['seq']}i,stored_ns={stored_ns}i {stored_ns}"


@pytest.fixture
def world(influx: InfluxDB, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """1,000 readings of one tag, one per 100 ms, all stored as sent."""
    made = World(influx, request.node.name.replace("[", "-").rstrip("]"), tmp_path)
    for n, value in enumerate(np.random.default_rng(5).normal(85.0, 1.0, 1000).tolist()):
        made.reading(n / 10, value)
    return made


def counts(report: Report) -> tuple[int, int, int, int]:
    """(stored, missing, repeated, altered)."""
    return report.stored, report.missing, report.repeated, report.altered


def test_what_was_stored_as_sent_is_exact(world: World) -> None:
    """Nothing is found where nothing is wrong; latency is per reading, from sent to stored."""
    report = world.audit()
    assert counts(report) == (1000, 0, 0, 0)
    assert report.exact
    assert report.protocols == {"mqtt": 1000}
    assert report.quality == {"good": 1000, "uncertain": 0, "bad": 0}
    assert report.latency_ms == {
        "p50": pytest.approx(45.0), "p99": pytest.approx(45.0), "unknown": 0,
        "arrival": {"p50": pytest.approx(5.0), "p99": pytest.approx(5.0)},
    }  # fmt: skip


def _remove(world: World) -> None:
    del world.points[500]


def _double(world: World) -> None:
    world.points.append(world.points[500] | {"time_ns": world.points[500]["time_ns"] + 1})


def _double_in_another_unit(world: World) -> None:
    world.points.append(world.points[500] | {"unit": "K"})


def _invent(world: World) -> None:
    world.point(START_NS + 123, 1.0)


def _flip_a_bit(world: World) -> None:
    world.points[500]["value"] = float(np.nextafter(world.points[500]["value"], np.inf))


def _lose_the_number(world: World) -> None:
    world.points[500]["value"] = None


def _change_the_unit(world: World) -> None:
    world.points[500]["unit"] = "K"


def _change_the_status(world: World) -> None:
    world.lines[500]["protocol"] = "opcua"
    world.points[500]["status"] = 0x40000000


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (_remove, (999, 1, 0, 0)),
        (_double, (1000, 0, 1, 0)),
        (_double_in_another_unit, (1000, 0, 1, 0)),
        (_invent, (1000, 0, 1, 0)),
        (_flip_a_bit, (1000, 0, 0, 1)),
        (_lose_the_number, (1000, 0, 0, 1)),
        (_change_the_unit, (1000, 0, 0, 1)),
        (_change_the_status, (1000, 0, 0, 1)),
    ],
)
def test_one_damaged_reading_in_a_thousand_is_found(
    world: World, damage: Callable[[World], None], found: tuple[int, int, int, int]
) -> None:
    """One reading removed, doubled, invented, or altered by one bit, unit or status, is found and shown."""
    damage(world)
    report = world.audit()
    assert counts(report) == found
    assert not report.exact
    kind = ("missing", "repeated", "altered")[[n > 0 for n in found[1:]].index(True)]
    (example,) = report.examples[kind]
    assert world.asset in example


def test_a_status_that_mqtt_does_not_carry_is_not_compared(world: World) -> None:
    """A connector may give an MQTT reading a status of its own; that alters nothing."""
    world.points[500]["status"] = 0x80000000
    assert world.audit().exact


def test_a_point_that_is_not_whole_yet_is_missing(world: World) -> None:
    """A point of which InfluxDB shows only some fields, as it does while it stores them, is not there yet."""
    world.points[500]["quality"] = None
    assert counts(world.audit()) == (999, 1, 0, 0)


def test_zeros_of_both_signs_differ(world: World) -> None:
    """−0.0 stored for 0.0 is altered; a text that changed is altered; what came through is not."""
    world.reading(200, 0.0)
    world.reading(201, -0.0)
    world.reading(202, None, text="Bad")
    world.reading(203, 5e-324)
    assert world.audit().exact
    world.points[-4]["value"] = -0.0
    world.points[-2]["reason"] = "bad"
    assert counts(world.audit()) == (1004, 0, 0, 2)


def test_readings_of_one_time_are_told_apart(world: World) -> None:
    """Several values of one tag and time are found at the nanoseconds after it, in whichever order they arrived."""
    for value in (1.0, 2.0, 3.0):
        world.reading(300, value, stored=False)
    for ordinal, value in enumerate((2.0, 1.0, 3.0)):
        world.point(START_NS + 300 * SECOND_NS + ordinal, value)
    assert world.audit().exact
    world.points[-1]["value"] = 4.0
    report = world.audit()
    assert counts(report) == (1003, 0, 0, 1)
    assert "value 3.0" in report.examples["altered"][0]


def test_what_is_no_reading_does_not_count(world: World) -> None:
    """Deliberate repetitions, garbage, rows for readings that never came, and an earlier run's points do not count."""
    world.lines.append(world.lines[3] | {"repeat": True})
    world.lines.append(world.lines[4] | {"garbage": True, "value": None})
    world.point(START_NS + 55, None, quality=int(Flag.MISSING), mark=int(Mark.IMPUTED))
    world.point(START_NS + 66, 1.0, arrival_ns=START_NS - 60 * SECOND_NS)
    report = world.audit()
    assert counts(report) == (1000, 0, 0, 0)
    assert (report.imputed, report.repeats_sent, report.garbage_sent) == (1, 1, 1)


def test_faults_are_flagged_or_not(world: World) -> None:
    """A fault counts as flagged when any of its readings is; an alarm without a fault near it is a false one."""
    suspect: dict[str, Any] = {"quality": int(Flag.SUSPECT)}
    gap: dict[str, Any] = {"quality": int(Flag.MISSING), "mark": int(Mark.IMPUTED)}
    world.reading(200, 120.0, fault="spike", **suspect)
    world.reading(203, 85.0, **suspect)  # within the time to settle
    world.reading(220, 85.0, **suspect)  # a false alarm
    world.reading(240, 86.0, fault="stuck")
    world.point(START_NS + 262 * SECOND_NS, None, tests=int(Test.GAP), **gap)
    world.reading(270, 85.0)
    for kind, start, stop in (("spike", 200, 200), ("stuck", 240, 240), ("dropout", 260, 265), ("repeat", 268, 268)):
        event = {"event": "fault", "kind": kind, "asset": world.asset, "tag": "temperature"}
        world.lines.append(event | {"from_ns": START_NS + start * SECOND_NS, "to_ns": START_NS + stop * SECOND_NS})
    report = world.audit(settle_s=5.0)
    assert {k: report.faults[k] for k in ("injected", "flagged", "false_alarms")} == {
        "injected": 3, "flagged": 2, "false_alarms": 1,
    }  # fmt: skip
    assert report.examples["faults_not_flagged"] == [f"{world.asset}/temperature: stuck"]
    assert report.quality["uncertain"] == 3


def test_estimates_are_scored_against_the_truth(world: World) -> None:
    """MSE of readings and estimates is taken over accepted readings of temperature without fault."""
    for n in range(10):
        world.reading(200 + n, 86.0, truth=85.0, estimate=85.5, nis=0.5)
    world.reading(220, 500.0, truth=85.0, estimate=90.0, nis=9.0, quality=int(Flag.FAIL), fault="out_of_range")
    world.reading(221, 7.5, tag="ph", unit="", truth=7.0, estimate=7.1, nis=1.0)
    estimation = world.audit().estimation
    per_tag = estimation.pop("per_tag")
    assert estimation == {"mse_raw": 1.0, "mse_estimate": 0.25, "nis_mean": 0.5, "unit": "degC²"}
    assert per_tag[f"{world.asset}/ph"]["mse_estimate"] == pytest.approx(0.01)


def test_the_report_has_the_form_that_was_asked_for(world: World) -> None:
    """The report for JSON has readings, quality, faults, estimation and latency by their names."""
    found = orjson.loads(orjson.dumps(world.audit().as_dict(rejected=3)))
    wanted = ("mqtt", "opcua", "stored", "missing", "repeated", "altered", "rejected")
    assert [found["readings"][name] for name in wanted] == [1000, 0, 1000, 0, 0, 0, 3]
    assert {"injected", "flagged", "false_alarms"} <= found["faults"].keys()
    assert {"mse_raw", "mse_estimate", "nis_mean"} <= found["estimation"].keys()
    assert {"p50", "p99"} <= found["latency_ms"].keys()


def test_a_journal_that_cannot_be_read_is_named(world: World) -> None:
    """A journal that is not as agreed, or a database that refuses, is said so with its place."""
    world.lines[7] = {"asset": "R101"}
    with pytest.raises(JournalError, match=r"line 8: the key 'sent_ns' is not there"):
        world.audit()
    missing = world.folder / "missing"
    with pytest.raises(JournalError, match="cannot be read"):
        compare(Database(url=world.influx.url, bucket="plant", token=""), [missing])
    del world.lines[7]
    world.audit()
    with pytest.raises(StoreError, match="401"):
        compare(Database(url=world.influx.url, bucket="plant", token="wrong"), [world.folder / "journal.jsonl"])
    writes_only = (world.influx.tokens_dir / "sink").read_text().strip()
    with pytest.raises(StoreError, match="no bucket 'plant' that this token may read"):
        compare(Database(url=world.influx.url, bucket="plant", token=writes_only), [world.folder / "journal.jsonl"])
