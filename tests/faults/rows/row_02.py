"""Row 2: the OPC UA connector is killed; and it is away for longer than the server's queues last."""

import json
import signal
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

from schemas.codec import decode
from schemas.frames import Frame
from schemas.topics import RAW
from tests.agents.kill_audit import records
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import OPCUA, Load, System

TITLE = "kill -9 OPC UA connector"
PATIENCE_S = 60.0
RATE_HZ = 5.0
QUEUE = 128  # readings per item that the server keeps: 25.6 s
LONG_S = QUEUE / RATE_HZ + 6.0
SETTINGS = {"opcua": [{"id": OPCUA, "security": "None", "mode": "None", "queue_size": QUEUE}]}
Key = tuple[str, str]


def run(rig: Rig) -> None:
    """What fits into the queues is not lost; what does not is told by a gap frame, from the last reading to the next.

    The plant's server waits for nobody here: it throws away the oldest reading of a full queue.
    """
    load = Load(rate_hz=RATE_HZ, options=("--patience-s", "0"))
    under_load(rig, strike_and_stay_away, settings=SETTINGS, load=load, told=True)


def strike(rig: Rig, system: System) -> None:
    """Kill and wait until readings flow, at random times."""
    for _ in range(rig.times(full=10, short=2)):
        time.sleep(rig.rng.uniform(0.1, 2.0))
        killed_s = time.time()
        system.kill(OPCUA)
        system.wait_flowing(PATIENCE_S, since_s=killed_s)


def strike_and_stay_away(rig: Rig, system: System) -> None:
    """Short outages first, in which nothing may be lost; then long ones, after which it is killed or wakes up."""
    strike(rig, system)
    holes = lost(system)
    rig.require(not holes, f"nothing is lost while the outage fits the server's queues: {holes[:3]}")
    for n in range(rig.times(full=4, short=1)):
        # Stopped, not killed: so the supervisor does not start the next one before the queues have overflowed.
        pid = system.send_signal(OPCUA, signal.SIGSTOP)
        time.sleep(LONG_S)
        rig.require(system.state(OPCUA).pid == pid, f"{OPCUA} stood still for {LONG_S:g} s")
        back_s = time.time()
        if n % 2 == 0:
            system.kill(OPCUA)
        else:
            system.send_signal(OPCUA, signal.SIGCONT)
            rig.struck()
        system.wait_flowing(PATIENCE_S, since_s=back_s)
        # Heartbeats flow, too, and perhaps before the first readings.
        arrived = partial(_have_arrived, system, round(back_s * 1e9))
        rig.wait_for(arrived, "every tag has readings from after the outage", PATIENCE_S)
    holes = lost(system)
    rig.require(holes, "an outage longer than the queues loses readings")
    gaps = told(system)
    inexact = [hole for hole in holes if hole not in gaps]
    rig.note("holes", len(holes))
    rig.require(not inexact, f"a gap frame tells exactly of each hole: not of {inexact[:3]}; told were {gaps[:3]}")


@dataclass(frozen=True, slots=True)
class Hole:
    """Readings of a tag are missing between two that are there (ns since 1970)."""

    asset: str
    tag: str
    from_ns: int
    to_ns: int


def lost(system: System) -> list[Hole]:
    """Where readings that were sent by OPC UA are not in raw, up to the newest that is."""
    found = _arrived(system)
    holes = []
    for key, sent in _sent(system).items():
        there = sorted(found[key])
        if not there:
            continue
        missing = [ns for ns in sent if there[0] < ns < there[-1] and ns not in found[key]]
        spans = {next((a, b) for a, b in pairwise(there) if a < ns < b) for ns in missing}
        holes += [Hole(*key, *span) for span in sorted(spans)]
    return holes


def _have_arrived(system: System, since_ns: int) -> bool:
    found = _arrived(system)
    return all(max(found[key], default=0) > since_ns for key in _sent(system))


def _arrived(system: System) -> dict[Key, set[int]]:
    """Times of the readings by OPC UA that are in raw."""
    found: dict[Key, set[int]] = defaultdict(set)
    for _, _, value in records(system.plant.kafka, RAW.full_name(system.plant.kafka.prefix)):
        frame = decode(value)
        if isinstance(frame, Frame) and frame.source == OPCUA:
            for tag, time_ns in zip(frame.tag.tolist(), frame.source_time_ns.tolist(), strict=True):
                found[frame.asset, frame.tags[tag]].add(time_ns)
    return found


def told(system: System) -> list[Hole]:
    """What gap frames say."""
    holes = []
    for _, _, value in records(system.plant.kafka, RAW.full_name(system.plant.kafka.prefix)):
        frame = decode(value)
        if isinstance(frame, Frame) and frame.source == OPCUA and frame.gap is not None:
            holes += [Hole(frame.asset, tag, frame.gap.from_ns, frame.gap.to_ns) for tag in frame.tags]
    return holes


def _sent(system: System) -> dict[Key, list[int]]:
    sent: dict[Key, list[int]] = defaultdict(list)
    for journal in system.journals:
        for line in journal.read_text("utf-8").splitlines():
            reading = json.loads(line)
            if reading.get("protocol") == "opcua":
                sent[reading["asset"], reading["tag"]].append(reading["source_time_ns"])
    return sent
