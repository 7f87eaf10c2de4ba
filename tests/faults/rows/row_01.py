"""Row 1: the MQTT connector is killed again and again at random times."""

import time

from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import MQTT, System

TITLE = "kill -9 MQTT connector at random"
FIRST_FRAME_S = 5.0


def run(rig: Rig) -> None:
    """20 kills; from the start of the next process to its first frame it takes at most 5 s."""
    under_load(rig, strike)


def strike(rig: Rig, system: System) -> None:
    """Kill and wait for the first frame, at random times."""
    first_frames_s = []
    for _ in range(rig.times(full=20, short=3)):
        time.sleep(rig.rng.uniform(0.1, 2.0))
        killed_s = time.time()
        system.kill(MQTT)
        system.wait_flowing(30, since_s=killed_s)
        first_frames_s.append(time.time() - system.state(MQTT).since_s)
    rig.note("start_to_flow_s", [round(s, 2) for s in first_frames_s])
    limit_s = rig.limit_s(FIRST_FRAME_S)
    rig.require(max(first_frames_s) <= limit_s, f"first frame within {limit_s:g} s: {max(first_frames_s):.1f} s")
