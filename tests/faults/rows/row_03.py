"""Row 3: agents are killed alone, in pairs and all at once, at random and at the worst moments."""

import time
from itertools import combinations

from cli.processes import STAGES
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import System

TITLE = "kill -9 each agent alone, in pairs, all at once; right after outputs, state row, before acknowledgement"
FLOWS_AGAIN_S = 15.0
PATIENCE_S = 60.0
POINTS = ("outputs", "rows", "ack")  # when Kafka has the outputs, the state rows; right before the acknowledgement


def run(rig: Rig) -> None:
    """Whatever dies together, everything flows again within 15 s."""
    under_load(rig, strike, fail_points=True)


def strike(rig: Rig, system: System) -> None:
    """Groups of agents at random times, then single ones at fail points where the system has such."""
    slowest: dict[str, float] = {}
    for group in _groups(rig):
        time.sleep(rig.rng.uniform(0.1, 3.0))
        killed_s = time.time()
        system.kill(*group)
        slowest["+".join(group)] = system.wait_flowing(PATIENCE_S, since_s=killed_s)
    for stage, point in _blows(rig) if system.fail_points else ():
        died_s = system.fail_at(**{stage: point})
        slowest[f"{stage} at {point}"] = system.wait_flowing(PATIENCE_S, since_s=died_s)
    rig.note("flowing_again_s", {name: round(seconds, 1) for name, seconds in slowest.items()})
    limit_s = rig.limit_s(FLOWS_AGAIN_S)
    late = [f"{name}: {seconds:.1f} s" for name, seconds in slowest.items() if seconds > limit_s]
    rig.require(not late, f"flowing again within {limit_s:g} s; not {', '.join(late)}")


def _groups(rig: Rig) -> list[tuple[str, ...]]:
    alone, pairs = [(stage,) for stage in STAGES], list(combinations(STAGES, 2))
    chosen = rig.rng.sample(alone, rig.times(full=4, short=1)) + rig.rng.sample(pairs, rig.times(full=6, short=1))
    return [*chosen, STAGES]


def _blows(rig: Rig) -> list[tuple[str, str]]:
    blows = [(stage, point) for stage in STAGES[:3] for point in POINTS]
    blows += [("sink", "ack")]
    return rig.rng.sample(blows, rig.times(full=len(blows), short=2))
