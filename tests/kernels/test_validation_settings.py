"""From the configuration to the limits of the tests."""

from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from kernels.validation_params import FOREVER, LIMITS, TABLES_MAX, TIME_LIMITS, ValidationParams, spans, to_ns
from runtime.config import Plant, Tag, Validation
from schemas.quality import Test
from tests.kernels.frame_strategies import frame_of, run, series, settings_of


def limits(plant: Plant, tag: str, unit: str) -> dict[str, float]:
    """The limits of one tag by name, without those that are off."""
    (row,) = ValidationParams(settings_of(plant)).table("R101", (tag,), (unit,))
    return {name: float(value) for name, value in zip(LIMITS, row, strict=True) if not np.isnan(value)}


def test_the_defaults_are_those_of_the_specification() -> None:
    """Range by kind, z-score 3 over 100 and from 10 values, spike 20 %, restart after 5; rate and flat line off."""
    assert limits(Plant(), "pressure", "Pa") == {
        "fail_low": 0.0,
        "fail_high": 10e6,
        "zscore_limit": 3.0,
        "zscore_window": 100.0,
        "zscore_min": 10.0,
        "spike_percent": 20.0,
        "restart_after": 5.0,
    }
    (times,) = ValidationParams(settings_of(Plant())).time_table("R101", ("pressure",))
    assert dict(zip(TIME_LIMITS, times.tolist(), strict=True)) == {
        "ahead_limit_s": 600 * 10**9,
        "behind_limit_s": FOREVER,
        "gap_s": FOREVER,
    }


def test_a_limit_can_be_switched_off_in_the_file() -> None:
    """TOML has no null: "off" switches a test off, also where a wider pattern had set a limit."""
    plant = Plant(tags={"*": {"validation": {"spike_percent": 5}}, "*/x": {"validation": {"spike_percent": "off"}}})
    assert "spike_percent" not in limits(plant, "x", "")
    assert limits(plant, "y", "")["spike_percent"] == 5.0
    with pytest.raises(ValidationError):
        Validation.model_validate({"spike_percent": "of"})


@pytest.mark.parametrize(
    "wrong",
    [
        {"zscore_min": 50, "zscore_window": 20},
        {"rate_suspect_per_s": 2, "rate_fail_per_s": 1},
        {"flat_suspect_s": 2, "flat_fail_s": 1},
        {"fail_span": [1, 0]},
        {"fail_span": [0, 1], "suspect_span": [0, 2]},
        {"restart_after": 21},
        {"zscore_window": 101},
    ],
)
def test_limits_that_contradict_each_other_are_refused(wrong: dict[str, Any]) -> None:
    """A configuration that could never do what it says, or more than the state can hold, is an error."""
    with pytest.raises(ValidationError):
        Validation.model_validate(wrong)


def test_spans_that_cannot_be_converted_are_not_evaluated() -> None:
    """A span in a unit that does not convert into the reading's is left out rather than taken as it is."""
    tag = Tag.model_validate({"unit": "bar", "validation": {"fail_span": [0, 10], "suspect_span": [1, 9]}})
    assert np.isnan(spans(tag.model_dump(), "pressure", "furlong")).all()
    assert np.allclose(spans(tag.model_dump(), "pressure", "kPa"), [(0, 1000), (100, 900)])


def test_rates_and_tolerances_follow_the_unit() -> None:
    """They are differences in the configured unit: scaled into the reading's without an offset, else not evaluated."""
    tests = {"rate_suspect_per_s": 1.0, "rate_fail_per_s": 5.0, "flat_tolerance": 0.5}
    plant = Plant(tags={"*/pressure": {"unit": "kPa", "validation": tests}, "*/t*": {"unit": "K", "validation": tests}})
    for tag, unit, factor in (
        ("pressure", "kPa", 1.0),
        ("pressure", "", 1.0),
        ("pressure", "Pa", 1e3),
        ("temperature", "degC", 1.0),
        ("temperature", "degF", 1.8),
    ):
        found = limits(plant, tag, unit)
        assert [found[name] for name in tests] == pytest.approx([value * factor for value in tests.values()])
    assert not tests.keys() & limits(plant, "pressure", "furlong").keys()
    assert limits(Plant(tags={"*": {"validation": tests}}), "pressure", "furlong")["flat_tolerance"] == 0.5


def test_the_same_readings_in_another_unit_have_the_same_flags() -> None:
    """A pressure in kPa and the same in Pa: rate and flat line find the same in both."""
    tests = {"rate_suspect_per_s": 3.0, "rate_fail_per_s": 9.0, "flat_tolerance": 0.5, "flat_suspect_s": 3}
    plant = Plant(tags={"*": {"unit": "kPa", "validation": {**tests, "zscore_limit": "off", "spike_percent": "off"}}})
    values = [100.0, 101.0, 106.0, 120.0, *[120.0] * 6, 121.0]
    both = [series((v * factor for v in values), tag="pressure", unit=u) for u, factor in (("kPa", 1), ("Pa", 1000))]
    found = [run("validation", [frame_of(readings)], plant)[1][0] for readings in both]
    assert found[0].tests.tolist() == found[1].tests.tolist()
    assert Test(int(np.bitwise_or.reduce(found[0].tests))) == Test.RATE | Test.FLAT_LINE


def test_the_gap_limit_is_interval_times_factor() -> None:
    """Both known: the product, in ns; what 64 bits cannot hold is never."""
    plant = Plant(tags={"*": {"interval_s": 5.0, "validation": {"gap_factor": 2.5}}})
    (times,) = ValidationParams(settings_of(plant)).time_table("R101", ("x",))
    assert times[TIME_LIMITS.index("gap_s")] == 12_500_000_000
    assert to_ns(1e300) == FOREVER
    assert to_ns(0.1) == 100_000_000


def test_the_tables_are_bounded() -> None:
    """Frames that list their tags in ever other ways do not fill the memory, and limits stay right."""
    params = ValidationParams(settings_of(Plant()))
    for i in range(TABLES_MAX + 5):
        params.table("R101", (f"pressure_{i}",), ("Pa",))
        params.time_table("R101", (f"pressure_{i}",))
    assert len(params._tables) <= TABLES_MAX
    assert len(params._time_tables) <= TABLES_MAX
    assert params.table("R101", ("pressure_0",), ("Pa",))[0, LIMITS.index("fail_high")] == 10e6
