"""4 partitions become 12 under load, on real services: plainly, killed in the middle, and back again.

Readings come by both protocols all the time; at the end the checker compares every one of them with the journal, all
topics, all states and InfluxDB.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.generations import newest
from schemas.generations import Plan
from services.stack import Stack
from tests.faults.rig import Outcome, Rig
from tests.faults.system import Load, System, running

pytestmark = [pytest.mark.services, pytest.mark.timeout(600)]
LOAD = Load(assets=6, tags=6, rate_hz=2.0)
RESCALE = ("rescale", "--partitions", "12")
FLOWS_S = 120.0


@pytest.fixture
def system(stack: Stack, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[System]:
    """A system of its own with 4 partitions, under load."""
    seed = 1 + sum(map(ord, request.node.name)) % 1000
    rig = Rig(Outcome(row=0, title="rescale", seed=seed, short=True), tmp_path, random.Random(seed))
    with running(rig, stack, load=LOAD) as found:
        yield found


def plan_of(system: System) -> Plan:
    """What the topic of generations says."""
    found = newest(system.plant.kafka)
    assert found is not None
    return found


def finished(system: System) -> None:
    """Everything flows on the topics at work, and not one reading is missing, repeated or altered."""
    system.follow_topics()
    system.wait_flowing(FLOWS_S)
    system.finish()
    outcome = system.rig.outcome
    assert outcome.passed, outcome.failures
    assert (outcome.missing, outcome.repeated, outcome.altered) == (0, 0, 0) and outcome.readings > 0


def rescaled(system: System) -> str:
    """Run it to its end; what it says."""
    began_s = time.monotonic()
    done = system.twin(*RESCALE)
    assert done.returncode == 0, done.stderr
    system.rig.note("rescale_s", round(time.monotonic() - began_s, 1))
    print(done.stderr, system.rig.outcome.notes)
    return done.stderr


def killed_when(system: System, holds: Callable[[Plan], bool], after_s: float) -> None:
    """Start it, and kill -9 it so long after its plan is there."""

    def there() -> bool:
        plan = newest(system.plant.kafka)
        return plan is not None and holds(plan)

    process = system.start_twin(*RESCALE, log="rescale")
    try:
        system.rig.wait_for(lambda: process.poll() is not None or there(), "its phase", 240)
        time.sleep(after_s)
        assert process.poll() is None, system.log("rescale")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_under_load(system: System) -> None:
    """While readings come: the outputs of both generations are equal, and every reading leaves exactly one trace."""
    refused = system.twin("rescale", "--partitions", "4")
    assert refused.returncode == 1 and "have 4 partitions already" in refused.stderr
    said = rescaled(system)
    assert said.count("are equal, byte for byte") == 2
    assert (plan_of(system).active.partitions, plan_of(system).phase) == (12, "settled")
    finished(system)
    shown = system.twin("rescale", "--status")
    assert "generation 2" in shown.stdout and "0 frames" in shown.stdout, shown.stdout + shown.stderr


def test_killed_while_building_and_while_switching(system: System) -> None:
    """kill -9 in the middle of building, then in the middle of switching: run again it ends as if it had never been
    killed. Another number is refused meanwhile."""
    killed_when(system, lambda plan: plan.phase == "building", 0.3)
    assert plan_of(system).phase == "building"
    refused = system.twin("rescale", "--partitions", "6")
    assert refused.returncode == 1 and "rescale to 12 partitions is under way" in refused.stderr
    killed_when(system, lambda plan: plan.phase == "switching", 1.0)
    assert plan_of(system).phase == "switching"
    assert "going on with generation 3" in rescaled(system)
    finished(system)


def test_rolled_back_before_and_after_the_switch(system: System) -> None:
    """Dropped while it is switched, the system goes on as it was; rolled back after the switch, what came since goes
    back, too."""
    killed_when(system, lambda plan: plan.phase == "switching", 1.0)
    back = system.twin("rescale", "--rollback")
    assert back.returncode == 0 and "as before" in back.stderr, back.stderr
    assert plan_of(system).target is None
    system.wait_flowing(FLOWS_S)
    rescaled(system)
    system.follow_topics()
    system.wait_flowing(FLOWS_S)
    back = system.twin("rescale", "--rollback")
    assert back.returncode == 0 and "went back with it" in back.stderr, back.stderr
    assert plan_of(system).active.number == 1
    finished(system)
