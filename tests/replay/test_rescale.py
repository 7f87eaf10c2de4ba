"""4 partitions become 12 under load, and back, on real services: plainly, killed in the middle, and undone.

Readings come by both protocols all the time; at the end of every test the checker compares every one of them with the
journal, all topics, all states and InfluxDB. One system for all tests: each goes on from the number it finds.
"""

import random
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from runtime.generations import newest
from schemas.generations import Plan
from services.stack import Stack
from tests.faults.rig import Outcome, Rig
from tests.faults.system import Load, System, running

pytestmark = [pytest.mark.services, pytest.mark.soak, pytest.mark.timeout(600)]
LOAD = Load(assets=6, tags=6, rate_hz=2.0)
FLOWS_S = 120.0


@pytest.fixture(scope="module")
def one_system(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A system with 4 partitions, and no load yet."""
    rig = Rig(Outcome(row=0, title="rescale", seed=1, short=True), tmp_path_factory.mktemp("rescale"), random.Random(1))
    with running(rig, stack, load=None) as found:
        yield found


@pytest.fixture
def system(one_system: System) -> Iterator[System]:
    """The same under load, with nothing found against it yet."""
    one_system.rig.outcome.failures.clear()
    one_system.start_load(LOAD)
    try:
        yield one_system
    finally:
        if one_system.sends:  # the test has failed
            one_system.stop_load()


def command(system: System) -> tuple[str, ...]:
    """To 12 partitions, or back to 4."""
    return ("rescale", "--partitions", "4" if system.plant.kafka.partitions == 12 else "12")


def plan_of(system: System) -> Plan:
    """What the topic of generations says."""
    found = newest(system.plant.kafka)
    assert found is not None
    return found


def finished(system: System) -> None:
    """Everything flows on the topics at work, and not one reading is missing, repeated or altered."""
    follow(system)
    system.finish()
    outcome = system.rig.outcome
    assert outcome.passed, outcome.failures
    assert (outcome.missing, outcome.repeated, outcome.altered) == (0, 0, 0) and outcome.readings > 0


def follow(system: System) -> None:
    """Look at the topics at work; all readings come through there."""
    system.follow_topics()
    system.wait_flowing(FLOWS_S)


def rescaled(system: System) -> str:
    """Run it to its end; what it says."""
    began_s = time.monotonic()
    done = system.twin(*command(system))
    assert done.returncode == 0, done.stderr
    system.rig.note("rescale_s", round(time.monotonic() - began_s, 1))
    print(done.stderr, system.rig.outcome.notes)
    return done.stderr


def killed_when(system: System, holds: Callable[[Plan], bool], after_s: float) -> None:
    """Start it, and kill -9 it so long after its plan is there."""

    def there() -> bool:
        plan = newest(system.plant.kafka)
        return plan is not None and holds(plan)

    process = system.start_twin(*command(system), log="rescale")
    try:
        system.rig.wait_for(lambda: process.poll() is not None or there(), "its phase", 240)
        time.sleep(after_s)
        assert process.poll() is None, system.log("rescale")
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()


def test_under_load(system: System) -> None:
    """While readings come: the outputs of both generations are equal, and every reading leaves exactly one trace."""
    now, wanted = system.plant.kafka.partitions, int(command(system)[-1])
    refused = system.twin("rescale", "--partitions", str(now))
    assert refused.returncode == 1 and f"have {now} partitions already" in refused.stderr
    said = rescaled(system)
    assert said.count("are equal, byte for byte") == 2
    plan = plan_of(system)
    assert (plan.active.partitions, plan.phase) == (wanted, "settled")
    finished(system)
    shown = system.twin("rescale", "--status")
    assert f"generation {plan.highest}" in shown.stdout and "0 frames" in shown.stdout, shown.stdout + shown.stderr


def test_killed_while_building_and_while_switching(system: System) -> None:
    """kill -9 in the middle of building, then in the middle of switching: run again it ends as if it had never been
    killed. Another number is refused meanwhile."""
    killed_when(system, lambda plan: plan.phase == "building", 0.3)
    plan = plan_of(system)
    assert plan.phase == "building"
    refused = system.twin("rescale", "--partitions", "6")
    wanted = command(system)[-1]
    assert refused.returncode == 1 and f"rescale to {wanted} partitions is under way" in refused.stderr
    killed_when(system, lambda plan: plan.phase == "switching", 1.0)
    assert plan_of(system).phase == "switching"
    assert f"going on with generation {plan.highest + 1}" in rescaled(system)
    finished(system)


def test_rolled_back_before_and_after_the_switch(system: System) -> None:
    """Dropped while it is switched, the system goes on as it was; rolled back after the switch, what came since goes
    back, too."""
    kafka = system.plant.kafka
    killed_when(system, lambda plan: plan.phase == "switching", 1.0)
    back = system.twin("rescale", "--rollback")
    assert back.returncode == 0 and "as before" in back.stderr, back.stderr
    assert plan_of(system).target is None
    system.wait_flowing(FLOWS_S)
    rescaled(system)
    follow(system)
    back = system.twin("rescale", "--rollback")
    assert back.returncode == 0 and "went back with it" in back.stderr, back.stderr
    active = plan_of(system).active
    assert (active.prefix, active.partitions) == (kafka.prefix, kafka.partitions)
    finished(system)
