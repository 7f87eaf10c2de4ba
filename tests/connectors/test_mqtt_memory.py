"""What an MQTT connector remembers of assets: from when on readings may be missing."""

import json
from pathlib import Path

import pytest

from connectors.framer import Reading
from connectors.mqtt_memory import OLDEST_S, Memory

SECOND_NS = 1_000_000_000
NOW_NS = 1_800_000_000 * SECOND_NS


def reading(source_time_ns: int, tag: str = "t") -> Reading:
    """A reading that comes now."""
    return Reading(
        asset="R1", tag=tag, unit="", value=1.0, source_time_ns=source_time_ns, arrival_time_ns=NOW_NS
    )  # fmt: skip


@pytest.mark.parametrize(
    ("behind_s", "until_s"), [(0.012, -0.012), (3600.0, -3600.0), (OLDEST_S + 1, 0.0), (-60.0, 0.0)]
)
def test_a_hole_begins_at_the_time_of_the_last_message(tmp_path: Path, behind_s: float, until_s: float) -> None:
    """Siblings measured with it, or queued behind it, are in the hole; a clock that is ahead or lost moves nothing."""
    memory = Memory(tmp_path, "mqtt-1", NOW_NS)
    memory.hear("R1", NOW_NS, [reading(NOW_NS - round(behind_s * SECOND_NS))])
    assert memory.heard_until_ns == {"R1": NOW_NS + round(until_s * SECOND_NS)}


def test_the_newest_of_several_readings_counts(tmp_path: Path) -> None:
    """What a device had kept and sends in one message with what it measures now does not lengthen the hole."""
    memory = Memory(tmp_path, "mqtt-1", NOW_NS)
    memory.hear("R1", NOW_NS, [reading(NOW_NS - hours * 3600 * SECOND_NS) for hours in (3, 2, 1)])
    memory.hear("R2", NOW_NS, [])  # garbage says nothing about its time
    assert memory.heard_until_ns == {"R1": NOW_NS - 3600 * SECOND_NS, "R2": NOW_NS}
    memory.save(NOW_NS, (), at_once=True)
    assert json.loads((tmp_path / "mqtt-1.assets.json").read_text()) == memory.heard_until_ns
