"""Real process data through the whole system, by both protocols."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from bench import data_sets
from plant import datasets
from tests.end_to_end.system_tools import ROOT

pytestmark = [pytest.mark.services, pytest.mark.soak, pytest.mark.timeout(900)]

#: `python -m bench.data_sets` plays Tennessee Eastman at the specification's 600 times; here it has to be done sooner.
SPEED = 3000.0
EASTMAN_READINGS = 3 * 960 * 52
NAB_READINGS = 22_695


def test_data_sets_are_stored_to_the_bit_by_both_protocols(tmp_path: Path) -> None:
    """Tennessee Eastman and NAB, at once by MQTT and by OPC UA, are stored complete and bit-equal; faults are seen."""
    report = tmp_path / "report.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.data_sets", "--speed", str(SPEED), "--report", str(report)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text("utf-8"))
    readings = found["readings"]
    assert readings["mqtt"] == readings["opcua"] == EASTMAN_READINGS + NAB_READINGS
    assert readings["stored"] == 2 * (EASTMAN_READINGS + NAB_READINGS)
    assert readings["missing"] == readings["repeated"] == readings["altered"] == 0, found["examples"]
    flags = {(row["data_set"], row["tag"]): row for row in found["flags"]}
    assert flags["TE00", "xmeas_09"]["flagged_outside"] <= 10  # of 960 rows without a fault
    assert flags["TE04", "xmv_10"]["detected_after_h"] <= 1.0  # a step in the cooling water's temperature
    assert flags["TE13", "xmeas_07"]["flagged_inside"] > 10 * max(1, flags["TE13", "xmeas_07"]["flagged_outside"])
    assert flags["NAB", "temperature"]["flagged_inside"] > 0
    assert {row["data_set"] for row in found["flags"]} == {
        datasets.load(path).asset for path in [*data_sets.EASTMAN, data_sets.NAB]
    }
