"""Units and kinds."""

import math

import pytest

from kernels.units import KINDS, UNITS, convert, convert_span, kind_of, unit_of


@pytest.mark.parametrize(
    ("value", "source", "target", "expected"),
    [
        (0.0, "degC", "K", 273.15),
        (100.0, "°C", "degF", 212.0),
        (-40.0, "°F", "degC", -40.0),
        (25.0, "bar", "Pa", 2.5e6),
        (2.5, "MPa", "kPa", 2500.0),
        (1.0, "atm", "mbar", 1013.25),
        (14.503773773, "psi", "bar", 1.0),
        (120.0, "L/min", "m³/h", 7.2),
        (1.0, "l/s", "L / min", 60.0),
        (7.0, "pH", "", 7.0),
    ],
)
def test_units_of_one_kind_are_converted(value: float, source: str, target: str, expected: float) -> None:
    """Conversions agree with values known from elsewhere (ice point, boiling point, standard atmosphere)."""
    found = convert(value, source, target)
    assert found is not None
    assert math.isclose(found, expected, rel_tol=1e-9)


@pytest.mark.parametrize(("source", "target"), [("degC", "bar"), ("furlong", "Pa"), ("Pa", "furlong"), ("", "degC")])
def test_what_cannot_be_converted_is_none(source: str, target: str) -> None:
    """Another kind or an unknown unit is never guessed."""
    assert convert(1.0, source, target) is None
    assert convert_span((0.0, 1.0), source, target) is None


def test_an_equal_spelling_needs_no_table() -> None:
    """A value in its own unit is itself, to the bit, even where the unit is unknown."""
    assert convert(0.1, "furlong", "furlong") == 0.1
    assert convert(0.1, "degC", "°C") == 0.1


def test_case_is_part_of_a_prefix() -> None:
    """mPa and MPa differ by 1e9; mpa is neither."""
    assert convert(1.0, "MPa", "mPa") == pytest.approx(1e9)
    assert unit_of("mpa") is None


@pytest.mark.parametrize("spelling", sorted(UNITS))
def test_every_unit_converts_there_and_back(spelling: str) -> None:
    """Every unit of the table belongs to a kind with a base unit and converts there and back."""
    unit = unit_of(spelling)
    assert unit is not None
    base = convert(3.0, spelling, KINDS[unit.kind].unit)
    assert base is not None
    assert convert(base, KINDS[unit.kind].unit, spelling) == pytest.approx(3.0)


@pytest.mark.parametrize(
    ("tag", "kind"),
    [
        ("temperature", "temperature"),
        ("temperature_jacket", "temperature"),
        ("jacket_temperature", "temperature"),
        ("jacket/temperature", "temperature"),
        ("temperature.sv", "temperature"),
        ("Temperature.PV", "temperature"),
        ("pressure", "pressure"),
        ("pressure_top", "pressure"),
        ("flow_rate", "flow_rate"),
        ("flow", "flow_rate"),
        ("flow_coolant", "flow_rate"),
        ("ph", "ph"),
        ("phase", "other"),
        ("temperature/alarm", "other"),
        ("level", "other"),
        ("", "other"),
    ],
)
def test_kind_by_name(tag: str, kind: str) -> None:
    """The name of a tag says its kind, whatever role or place it also names."""
    assert kind_of(tag) == kind
