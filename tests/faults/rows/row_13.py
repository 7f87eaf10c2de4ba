"""Row 13: workers join and leave all the time."""

import time

from cli.processes import STAGES
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import System, Worker

TITLE = "a worker joins or leaves every 10 s"
STOP_S = 5.0
EVERY_S = 10.0
PATIENCE_S = 60.0
MORE_MAX = 3  # further workers at a time, perhaps all of one stage: with the supervised one no more than partitions


def run(rig: Rig) -> None:
    """Twenty times; a worker that is told to stop has ended within 5 s, and nobody notices in what comes out."""
    under_load(rig, strike)


def strike(rig: Rig, system: System) -> None:
    """Joins and leaves in random order and of random stages; at the end the further workers leave."""
    more: list[Worker] = []
    stops_s: list[float] = []

    def leave(worker: Worker) -> None:
        more.remove(worker)
        stops_s.append(worker.stop())
        rig.struck()

    for n in range(rig.times(full=20, short=4)):
        began_s = time.time()
        if not more or (len(more) < MORE_MAX and rig.rng.random() < 0.5):
            joined = system.start_worker(rig.rng.choice(STAGES), n)
            more.append(joined)
            rig.wait_for(lambda joined=joined: joined.assigned, f"{joined.name} has joined", PATIENCE_S)  # type: ignore[misc]
            rig.struck()
        else:
            leave(rig.rng.choice(more))
        system.wait_flowing(PATIENCE_S, since_s=began_s)
        if not rig.short:
            time.sleep(max(0.0, EVERY_S - (time.time() - began_s)))
    for worker in list(more):
        leave(worker)
    rig.note("stop_s", [round(s, 1) for s in stops_s])
    limit_s = rig.limit_s(STOP_S)
    rig.require(max(stops_s) <= limit_s, f"each stop within {limit_s:g} s: {max(stops_s):.1f} s")
