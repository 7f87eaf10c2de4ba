"""How the connectors cross a time without Kafka: what waits, where, and how quickly it is drained afterwards."""

import threading
import time
from pathlib import Path
from typing import NamedTuple

from tests.faults.rig import Rig
from tests.faults.system import CONNECTORS, MQTT, OPCUA, System

DRAIN_FACTOR = 3.0
DRAINED_S = 300.0
SAMPLE_S = 0.1
#: OPC UA goes to the disk spool; with QoS 1 the MQTT broker keeps what is not acknowledged.
LOG = {OPCUA: "the disk spool takes over", MQTT: "kafka: "}


class Crossing:
    """What was sent and what Kafka confirmed, per connector, from before Kafka goes until it has caught up."""

    def __init__(self, rig: Rig, system: System) -> None:
        self._rig, self._system = rig, system
        self._sent = Sent(system.journals[-1])
        self._lines = {name: system.log_matches(name, LOG[name]) for name in CONNECTORS}
        self._samples: list[Sample] = []
        self._away = 0  # sample at which Kafka was seen to be away
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="crossing", daemon=True)
        self._thread.start()

    def require_noticed(self) -> None:
        """While Kafka is away both connectors say so, and the OPC UA connector spools."""
        rig, system = self._rig, self._system
        for name in CONNECTORS:
            lines = system.log_matches(name, LOG[name]) - self._lines[name]
            rig.require(lines, f"{name}: a line in its log ({LOG[name]})")
            rig.require(system.metric(name, "twin_connected", peer="kafka") == 0, f"{name}: twin_connected shows it")
        rig.require(system.metric(OPCUA, "twin_spool_frames"), "twin_spool_frames counts what waits")
        self._away = len(self._samples) - 1

    def drained(self) -> None:
        """Kafka is there again: wait until each connector has caught up with the field, and judge its rate."""
        self._rig.wait_for(
            lambda: all(self._caught_up(name) for name in CONNECTORS), "the connectors have caught up", DRAINED_S
        )
        self._ending.set()
        self._thread.join()
        for name in CONNECTORS:
            self._judge(name)

    def _judge(self, name: str) -> None:
        begin, end = self._first_confirmation(name), self._caught_up(name)
        assert begin is not None and end is not None
        origin, first, last = self._samples[0], self._samples[begin], self._samples[end]
        drain_s = last.at_s - first.at_s
        input_hz = (last.sent[name] - origin.sent[name]) / (last.at_s - origin.at_s)
        drain_hz = (last.confirmed[name] - first.confirmed[name]) / drain_s
        self._rig.note(
            f"{name}: Kafka away for {first.at_s - origin.at_s:.0f} s",
            {
                "backlog": round(self._behind(name, first)),
                "drain_s": round(drain_s, 2),
                "input_hz": round(input_hz, 1),
                "drain_hz": round(drain_hz, 1),
            },
        )
        factor = DRAIN_FACTOR / self._rig.limit_s(1.0)
        self._rig.require(
            drain_hz >= factor * input_hz,
            f"{name} drains at {factor:g} × the input rate: {drain_hz:.0f}/s against {input_hz:.0f}/s",
        )

    def _first_confirmation(self, name: str) -> int | None:
        """The last sample before Kafka confirms again."""
        away = self._samples[self._away].confirmed[name]
        later = range(self._away, len(self._samples))
        return next((i - 1 for i in later if self._samples[i].confirmed[name] > away), None)

    def _caught_up(self, name: str) -> int | None:
        """The first sample with no more than a second's readings on their way."""
        begin, origin = self._first_confirmation(name), self._samples[0]
        if begin is None:
            return None
        for i in range(begin + 1, len(self._samples)):
            sample = self._samples[i]
            a_second = (sample.sent[name] - origin.sent[name]) / (sample.at_s - origin.at_s)
            if self._behind(name, sample) <= a_second:
                return i
        return None

    def _behind(self, name: str, sample: "Sample") -> float:
        origin = self._samples[0]
        return (sample.sent[name] - origin.sent[name]) - (sample.confirmed[name] - origin.confirmed[name])

    def _run(self) -> None:
        while True:
            sent = self._sent.counts()
            confirmed = {name: self._system.metric(name, "twin_readings_total") for name in CONNECTORS}
            known = {name: value for name, value in confirmed.items() if value is not None}
            if len(known) == len(CONNECTORS):
                self._samples.append(Sample(time.monotonic(), sent, known))
            if self._ending.wait(SAMPLE_S):
                return


class Sample(NamedTuple):
    """Readings sent and confirmed by Kafka so far, per connector, at a monotonic time."""

    at_s: float
    sent: dict[str, int]
    confirmed: dict[str, float]


class Sent:
    """Counts the readings in a journal that is being written."""

    def __init__(self, journal: Path) -> None:
        self._file = journal.open("rb")
        self._counts = dict.fromkeys(CONNECTORS, 0)

    def counts(self) -> dict[str, int]:
        """Readings so far, per connector."""
        while data := self._file.read(2**24):
            self._counts[MQTT] += data.count(b'"protocol":"mqtt"')
            self._counts[OPCUA] += data.count(b'"protocol":"opcua"')
        return dict(self._counts)
