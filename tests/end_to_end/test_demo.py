"""The main job: a plant with faults, real services, every reading compared."""

import json
from pathlib import Path

import pytest

from tests.end_to_end.system_tools import twin

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

#: Kinds of faults that a test of validation or estimation is defined for, and so must be seen.
KINDS = {
    "spike", "step", "out_of_range", "stuck", "drift", "text", "clock_skew", "late", "dropout", "status_uncertain",
    "status_bad",
}  # fmt: skip


def test_demo_of_a_minute_loses_repeats_and_alters_nothing(tmp_path: Path) -> None:
    """In a minute of the demo every reading is stored once, unaltered, half of them within a second though
    other tests run beside it (the demo prints p99, `make demo` alone is its measurement); every fault is flagged."""
    report = tmp_path / "demo.json"
    done = twin("demo", "--seconds", "60", "--report", str(report), "--run-dir", str(tmp_path / "run"))
    assert done.returncode == 0, done.stderr + done.stdout
    found = json.loads(report.read_text("utf-8"))
    readings = found["readings"]
    assert readings["missing"] == readings["repeated"] == readings["altered"] == 0, found["examples"]
    assert readings["stored"] == readings["mqtt"] + readings["opcua"]
    assert readings["mqtt"] > 3 * 3 * 500
    assert readings["opcua"] > 3 * 5 * 500
    assert readings["rejected"] == readings["garbage_sent"] > 0
    assert readings["repeats_sent"] > 0
    assert found["faults"]["by_kind"].keys() == KINDS
    assert found["faults"]["flagged"] == found["faults"]["injected"] > 0, found["examples"]
    assert found["faults"]["false_alarms"] <= readings["stored"] * 0.001, found["examples"]
    assert found["latency_ms"]["unknown"] == 0
    assert found["latency_ms"]["p50"] < 1000
    assert found["estimation"]["mse_estimate"] < 0.3 * found["estimation"]["mse_raw"]
    assert 0.7 < found["estimation"]["nis_mean"] < 1.4
    assert sum(found["quality"].values()) == readings["stored"]
    for asset in ("R101", "R102", "R103"):
        state = found["twin"][asset]
        assert 0 < state["conversion"] < state["conversion_60s"] < 1
        assert 60 < state["temperature_degC"] < 120
        assert 60 < state["temperature_60s_degC"] < 120
