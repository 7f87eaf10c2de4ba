"""Workers are killed and stopped while frames flow; nothing may be missing, wrong or in the wrong order."""

import pytest

from runtime.config import Kafka
from tests.agents import kill_drive
from tests.agents.kill_audit import Figures
from tests.agents.kill_drive import PARTITIONS

pytestmark = [pytest.mark.services, pytest.mark.kill]
BACK_S = 15.0


def _sound(figures: Figures) -> None:
    print(figures)
    assert figures.faults() == {}
    assert figures.outputs >= figures.sent > 1000


@pytest.mark.parametrize(
    ("workers", "stage", "seconds"),
    [
        pytest.param(1, "counting", 30, marks=pytest.mark.soak),
        (2, "validation", 25),
        pytest.param(3, "counting", 25, marks=pytest.mark.soak),
    ],
)
def test_nothing_is_missing_or_wrong_after_kills(kafka: str, workers: int, stage: str, seconds: float) -> None:
    """Killed with -9 at random and at the fail points, workers give every output once or identically again, computed
    from the right state, in order, with final states equal to a one-process fold to the bit; flowing again in 15 s.
    """
    settings = Kafka(bootstrap=kafka, prefix=f"kills-{workers}", partitions=PARTITIONS)
    figures = kill_drive.run(settings, "kill", stage, workers, seconds, seed=workers)
    _sound(figures)
    assert figures.kills >= 2
    assert figures.kills_under_load >= 2
    assert figures.slowest_recovery_s <= BACK_S


def test_a_zombie_changes_no_state(kafka: str) -> None:
    """A worker stopped for longer than its session, whose partitions another one took over, wakes up and leaves."""
    settings = Kafka(bootstrap=kafka, prefix="zombie", partitions=PARTITIONS)
    figures = kill_drive.run(settings, "stop", "counting", 2, 20, seed=4)
    _sound(figures)
    assert figures.stops >= 2
    assert figures.left == figures.stops
