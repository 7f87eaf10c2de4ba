"""The auditor's look at InfluxDB by what the topics say, on a real InfluxDB: one thing is wrong at a time."""

import asyncio
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from audit.kafka import Cluster, Record
from audit.points import judge_points
from audit.store import Database
from audit.tally import Tally
from schemas.codec import decode_as, encode
from schemas.frames import EstimateFrame, columns_of
from schemas.records import Alert, Rejected, TwinState, Window
from schemas.topics import ALERTS, ESTIMATES, REJECTED, STATE, Topic
from services.influxdb import InfluxDB
from tests.audit.flow import SECOND_NS, START_NS, Flow, store

pytestmark = pytest.mark.services
TOPICS = (ESTIMATES, STATE, ALERTS, REJECTED)


@dataclass
class World:
    """What the topics hold, and the points that became of it, to be damaged before they are written."""

    flow: Flow
    influx: InfluxDB
    folder: Path
    lines: list[str] = field(default_factory=list)
    prefix: str = "points"

    def records(self, topic: Topic, _spans: object = None) -> Iterator[Record]:
        """As `audit.kafka.Cluster` gives them."""
        held = [record for record in self.flow.records if record.topic == topic.name]
        return (Record(0, offset, record.key, record.value) for offset, record in enumerate(held))

    def index(self, measurement: str, number: int = 0) -> int:
        """Which line is the n-th one of a measurement."""
        return [n for n, line in enumerate(self.lines) if line.startswith(measurement)][number]

    def change(self, measurement: str, pattern: str, by: Callable[[str], str], number: int = 0) -> None:
        """Change what matches in the n-th line of a measurement."""
        at = self.index(measurement, number)
        changed = re.sub(pattern, lambda found: by(found[0]), self.lines[at], count=1)
        assert changed != self.lines[at]
        self.lines[at] = changed

    def add(self, topic: Topic, record: Any) -> None:
        """One more record, which the sink has not stored yet."""
        self.flow.add(topic.name, self.flow.assets()[0].encode(), encode(record), 0)

    def refuse(self, topic: Topic, offset: int, payload: bytes, tag: str = "") -> None:
        """The sink says that it cannot store what stands there."""
        asset, name = self.flow.assets()[0], topic.full_name(self.prefix)
        self.add(REJECTED, Rejected(stage="sink", reason="no", asset=asset, tag=tag, topic=name, partition=0,
                                    offset=offset, payload=payload))  # fmt: skip

    def last(self, topic: Topic, record_type: type) -> Any:
        """The last record of a topic about the first asset."""
        return decode_as(self.flow.of(topic.name, self.flow.assets()[0])[-1].value, record_type)

    def store_all(self) -> None:
        """Make the points anew from the records."""
        self.lines = self.flow.stored()

    def judged(self) -> Tally:
        """What the auditor says of it."""
        token = self.folder / "token"
        token.write_text(self.influx.token)
        asyncio.run(store(self.lines, self.influx, token))
        database = Database(url=self.influx.url, bucket=self.influx.bucket, token=self.influx.token)
        cluster = cast("Cluster", self)
        return judge_points(cluster, {topic.name: {} for topic in TOPICS}, database, START_NS - SECOND_NS)


@pytest.fixture
def world(influx: InfluxDB, tmp_path: Path, request: pytest.FixtureRequest) -> World:
    """Twelve frames of two assets with all that comes of them, a window in each state, and three alerts."""
    flow = Flow(re.sub(r"\W+", "-", request.node.name))
    flow.fill()
    flow.run()
    for n, record in enumerate(flow.of(STATE.name)):
        window = Window(tag="pressure", window_s=1.0, start_ns=START_NS + n * SECOND_NS, count=3, mean=2.5, min=2.4,
                        max=2.6)  # fmt: skip
        record.value = encode(replace(decode_as(record.value, TwinState), windows=(window,)))
    made = World(flow, influx, tmp_path)
    for message, second in (("drifts", 0), ("drifts, too", 0), ("drifts", 5)):
        asset, time_ns = flow.assets()[0], START_NS + second * SECOND_NS
        made.add(ALERTS, Alert(asset=asset, kind="drift", severity="info", time_ns=time_ns, message=message, value=0.1))
    made.store_all()
    return made


def faults(tally: Tally) -> dict[str, int]:
    """Those that were found."""
    return {name: count for name, count in tally.faults.items() if count}


def test_what_the_topics_say_is_there(world: World) -> None:
    """Nothing is found where nothing is wrong, and everything was looked at."""
    tally = world.judged()
    assert faults(tally) == {}
    assert tally.figures == {"estimates": 96, "states": 24, "windows": 24, "alerts": 3, "rejected_by_sink": 0}


def _next(cell: str) -> str:
    name, number = cell.split("=")
    return f"{name}={float(np.nextafter(float(number), np.inf))!r}"


def _more(cell: str, by: int = 1) -> str:
    name, number = cell.rstrip("i").split("=")
    return f"{name}={int(number) + by}i"


@pytest.mark.parametrize("name", ["value", "estimate", "rate", "std", "innovation", "nis"])
def test_a_bit_of_a_number_of_a_reading_is_found(world: World, name: str) -> None:
    """The last bit of every number of a reading's point counts."""
    world.change("reactor_sensor", rf"\b{name}=[-0-9.e]+", _next, 40)
    assert faults(world.judged()) == {"estimates_altered": 1}


@pytest.mark.parametrize("name", ["quality", "tests", "status", "mark", "arrival_ns", "seq"])
def test_a_flag_of_a_reading_is_found(world: World, name: str) -> None:
    """Every whole number of a reading's point counts, also one larger than its column in the frame."""
    world.change("reactor_sensor", rf"\b{name}=[0-9]+i", _more, 40)
    world.change("reactor_sensor", rf"\b{name}=[0-9]+i", lambda cell: _more(cell, 2**32), 50)
    tally = world.judged()
    assert faults(tally) == {"estimates_altered": 2}
    assert f"{name} " in tally.examples["estimates_altered"][0]


DAMAGES: dict[str, tuple[str, Callable[[World], None]]] = {
    "a reading's source": (
        "estimates_altered", lambda w: w.change("reactor_sensor", '"mqtt-1"', lambda _: '"mqtt-2"')),
    "a reading's text": (
        "estimates_altered", lambda w: w.change("reactor_sensor", "source=", lambda s: f'reason="x",{s}')),
    "a reading's server time": (
        "estimates_altered", lambda w: w.change("reactor_sensor", "source=", lambda s: f"server_ns=7i,{s}")),
    "a reading": ("estimates_missing", lambda w: w.lines.pop(w.index("reactor_sensor", 40))),
    "a reading twice": (
        "estimates_unasked", lambda w: w.lines.append(re.sub(r"\d$", "1", w.lines[w.index("reactor_sensor", 40)]))),
    "a reading in another unit": (
        "estimates_unasked",
        lambda w: w.lines.append(w.lines[w.index("reactor_sensor", 40)].replace("unit=degC", "unit=K"))),
    "a state": ("states_missing", lambda w: w.lines.pop(w.index("reactor_twin", 5))),
    "a state twice": (
        "states_unasked", lambda w: w.lines.append(re.sub(r"\d$", "1", w.lines[w.index("reactor_twin", 5)]))),
    "a bit of a value": (
        "states_altered", lambda w: w.change("reactor_twin", r"\btemperature_degC=[-0-9.e]+", _next, 5)),
    "a bit of a deviation": (
        "states_altered", lambda w: w.change("reactor_twin", r"\bpressure_std_MPa=[-0-9.e]+", _next, 5)),
    "a flag of a state": ("states_altered", lambda w: w.change("reactor_twin", r"\bpressure_flag=\d+i", _more, 5)),
    "a state's seq": ("states_altered", lambda w: w.change("reactor_twin", r"\bseq=\d+i", _more, 5)),
    "a field too much": ("states_altered", lambda w: w.change("reactor_twin", "seq=", lambda s: f"level_m=1.5,{s}", 5)),
    "a number in another's field": (
        "states_altered",
        lambda w: w.change("reactor_twin", r"\btemperature_std_degC=([-0-9.e]+)",
                           lambda s: s.replace("temperature_std", "other_std"), 5)),
    "a window": ("windows_missing", lambda w: w.lines.pop(w.index("reactor_window", 5))),
    "a window twice": (
        "windows_unasked", lambda w: w.lines.append(re.sub(r"\d$", "1", w.lines[w.index("reactor_window", 5)]))),
    "a bit of a window": ("windows_altered", lambda w: w.change("reactor_window", r"mean=[-0-9.e]+", _next, 5)),
    "an alert": ("alerts_missing", lambda w: w.lines.pop(w.index("reactor_alert", 1))),
    "an alert's word": ("alerts_missing", lambda w: w.change("reactor_alert", "drifts", lambda _: "drafts", 1)),
    "a bit of an alert": ("alerts_missing", lambda w: w.change("reactor_alert", r"value=[-0-9.e]+", _next, 1)),
    "an alert's time": (
        "alerts_missing", lambda w: w.change("reactor_alert", r"\d{7}$", lambda s: str(int(s) + 2_000_000), 1)),
    "an alert twice": (
        "alerts_repeated", lambda w: w.lines.append(re.sub(r"\d$", "1", w.lines[w.index("reactor_alert", 1)]))),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGES)
def test_what_is_wrong_is_named_and_nothing_else(world: World, case: str) -> None:
    """One point less, one more, or one that is not as the topic says, is found, counted once and shown."""
    fault, damage = DAMAGES[case]
    damage(world)
    tally = world.judged()
    assert faults(tally) == {fault: 1}
    assert tally.examples[fault][0].startswith(world.flow.name)


def test_estimates_of_another_row_are_found(world: World) -> None:
    """A sink that writes every estimate one row off is found, though each number it writes is one of the topic's."""
    for record in world.flow.of(ESTIMATES.name):
        frame = decode_as(record.value, EstimateFrame)
        record.value = encode(replace(frame, estimate=np.roll(frame.estimate, 1)))
    assert faults(world.judged()).keys() == {"estimates_altered"}


def test_states_dropped_after_a_restart_are_found(world: World) -> None:
    """All points of twins from some time on are missing: also those that were the last."""
    first = [line for line in world.lines if line.startswith("reactor_twin")][12:]
    world.lines = [line for line in world.lines if line not in first]
    assert faults(world.judged()) == {"states_missing": 12}


def test_what_came_again_with_the_same_time_stands_as_it_came_last(world: World) -> None:
    """A frame and a state again, and other ones of the same time, leave the last one's numbers and what only the
    earlier ones had; any other number is altered.
    """
    frame, state = world.last(ESTIMATES, EstimateFrame), world.last(STATE, TwinState)
    world.add(ESTIMATES, frame)
    world.add(ESTIMATES, replace(frame, seq=12, estimate=frame.estimate + 1.0, nis=np.full(len(frame), np.nan)))
    world.add(STATE, state)
    variables = {name: replace(v, value=None, std=(v.std or 0.0) + 1.0) for name, v in state.variables.items()}
    world.add(STATE, replace(state, seq=12, variables=variables, windows=()))
    world.store_all()
    assert faults(world.judged()) == {}
    world.change("reactor_sensor", r"estimate=[-0-9.e]+", _next, -1)
    world.change("reactor_twin", r"pressure_std_MPa=[-0-9.e]+", _next, -1)
    assert faults(world.judged()) == {"estimates_altered": 1, "states_altered": 1}


def test_what_the_sink_rejected_is_not_missed(world: World) -> None:
    """A reading, state, window or alert that is among the rejected needs no point; its neighbours do."""
    asset, frame = world.flow.assets()[0], world.last(ESTIMATES, EstimateFrame)
    offsets = {topic: [n for n, record in enumerate(world.records(topic)) if record.key == asset.encode()]
               for topic in (ESTIMATES, STATE, ALERTS)}  # fmt: skip
    mine = [n for n, line in enumerate(world.lines) if f"reactor_id={asset}," in line or f"reactor_id={asset} " in line]
    measurements = ("reactor_sensor", "reactor_twin", "reactor_window", "reactor_alert")
    last = {name: [n for n in mine if world.lines[n].startswith(name)] for name in measurements}
    dropped = [
        *last["reactor_sensor"][-2:],
        last["reactor_twin"][-1],
        last["reactor_window"][-2],
        last["reactor_alert"][-1],
    ]
    reading, window = world.lines[dropped[0]], world.lines[dropped[3]]
    world.lines = [line for n, line in enumerate(world.lines) if n not in dropped]
    assert faults(world.judged()) == {
        "estimates_missing": 2, "states_missing": 1, "windows_missing": 1, "alerts_missing": 1,
    }  # fmt: skip
    row = len(frame) - 1
    one = replace(frame, **{name: getattr(frame, name)[row:] for name in columns_of(EstimateFrame)})
    world.refuse(ESTIMATES, offsets[ESTIMATES][-1], reading.encode(), frame.tags[frame.tag[row - 1]])
    world.refuse(ESTIMATES, offsets[ESTIMATES][-1], encode(one), frame.tags[frame.tag[row]])
    world.refuse(STATE, offsets[STATE][-1], b"the state")
    world.refuse(STATE, offsets[STATE][-2], window.encode())
    world.refuse(ALERTS, offsets[ALERTS][-1], b"the alert")
    assert faults(world.judged()) == {}
