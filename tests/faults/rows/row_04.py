"""Row 4: the sink is killed when InfluxDB has answered and nothing is committed."""

import time

from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import System

TITLE = "kill -9 sink between InfluxDB's answer and the commit"
PATIENCE_S = 60.0
POINTS = ("handled", "ack")  # InfluxDB has answered for a batch; up to a checkpoint later, right before the commit


def run(rig: Rig) -> None:
    """What InfluxDB has is written again over itself."""
    under_load(rig, strike, fail_points=True)


def strike(rig: Rig, system: System) -> None:
    """Both ends of the time between answer and commit, in turn."""
    for n in range(rig.times(full=10, short=2)):
        time.sleep(rig.rng.uniform(0.0, 2.0))
        system.wait_flowing(PATIENCE_S, since_s=system.fail_at(sink=POINTS[n % 2]))
