"""Row 5: a process stands still and wakes up as a zombie: others may have taken over what it thinks it owns."""

import time

from cli.processes import STAGES
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import CONNECTORS, OPCUA, Load, System, Worker

TITLE = "SIGSTOP for 5, 30, 90 s, then SIGCONT, of any process"
STANDS_S = (5.0, 30.0, 90.0)
TAKEN_OVER_S = 30.0  # with a second worker of the stage beside it
LEAVES_S = 20.0
PATIENCE_S = 120.0
SERVICES = ("kafka", "influxdb", "mosquitto")
#: The field waits for the connector: what is lost beyond a server's queues is row 2.
SETTINGS = {"opcua": [{"id": OPCUA, "security": "None", "mode": "None", "queue_size": 128}]}
LOAD = Load(options=("--patience-s", "120"))


def run(rig: Rig) -> None:
    """Every process for every time, and every stage beside a second worker that takes over."""
    under_load(rig, strike, settings=SETTINGS, load=LOAD)


def strike(rig: Rig, system: System) -> None:
    """One process after the other, in random order; in the short form one at random, and one stage with a second."""
    blows = [(name, seconds) for name in (*STAGES, *CONNECTORS, *SERVICES) for seconds in STANDS_S]
    short = [(rig.rng.choice((*STAGES, *CONNECTORS)), STANDS_S[0])]
    for name, seconds in short if rig.short else rig.rng.sample(blows, len(blows)):
        stand_still(rig, system, name, seconds)
    for stage in rig.rng.sample(STAGES, rig.times(full=len(STAGES), short=1)):
        take_over(rig, system, stage)


def stand_still(rig: Rig, system: System, name: str, seconds: float) -> None:
    """Nobody takes over; everything waits for the process or goes on without it."""
    with system.service_stopped(name) if name in SERVICES else system.stopped(name):
        time.sleep(seconds)
    system.wait_flowing(PATIENCE_S)


def take_over(rig: Rig, system: System, stage: str) -> None:
    """A second worker does all the work meanwhile; the one that wakes up ends without having written anything."""
    with system.worker(stage) as second:
        system.wait_flowing(PATIENCE_S, record=False)
        zombie = system.pid(stage)
        with system.stopped(stage):
            began_s = time.time()
            rig.wait_for(lambda: _newest_s(system, stage, second) > began_s + 1, f"{second.name} took over", PATIENCE_S)
            time.sleep(max(0.0, TAKEN_OVER_S - (time.time() - began_s)))
        woke_s = time.time()
        rig.wait_for(lambda: system.state(stage).pid != zombie, f"the zombie of {stage} leaves", LEAVES_S)
        system.wait_flowing(PATIENCE_S, since_s=woke_s)
        rig.require(system.log_matches(stage, "stood still"), f"the zombie of {stage} says why it left")


def _newest_s(system: System, stage: str, second: Worker) -> float:
    """Arrival time of the newest reading that has come through."""
    return second.metric("twin_last_reading_time_seconds") or 0.0 if stage == "sink" else system.pulse.newest_s()
