"""Row 6: the Kafka broker is killed, and started again in its regular way."""

import time

from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import System

TITLE = "Kafka kill -9 and clean restart"
FLOWS_AGAIN_S = 20.0
PATIENCE_S = 120.0


def run(rig: Rig) -> None:
    """Five times each; everything flows again within 20 s of the broker's start."""
    under_load(rig, strike)


def strike(rig: Rig, system: System) -> None:
    """Kill -9 and clean restart in turn."""
    took_s: list[float] = []
    for _ in range(rig.times(full=5, short=1)):
        for clean in (False, True):
            time.sleep(rig.rng.uniform(0.5, 3.0))
            with system.without("kafka", clean=clean):
                started_s = time.time()
            took_s.append(system.wait_flowing(PATIENCE_S, since_s=started_s))
    rig.note("flowing_again_s", [round(s, 1) for s in took_s])
    limit_s = rig.limit_s(FLOWS_AGAIN_S)
    rig.require(max(took_s) <= limit_s, f"flowing again within {limit_s:g} s: {max(took_s):.1f} s")
