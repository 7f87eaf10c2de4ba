"""Units of the kinds of process variables that have a range by default, and conversion between them.

May not know: configuration. A unit that is not in the table is unknown, never guessed.
"""

from typing import NamedTuple


class Unit(NamedTuple):
    """A unit by its kind: value in the kind's base unit = factor · value + offset."""

    kind: str
    factor: float
    offset: float = 0.0


class Kind(NamedTuple):
    """A kind of process variable: its base unit and the span, in that unit, outside of which a value must be wrong."""

    unit: str
    fail_span: tuple[float, float]


KINDS = {
    "temperature": Kind("degC", (-50.0, 400.0)),
    "pressure": Kind("Pa", (0.0, 10e6)),
    "flow_rate": Kind("L/min", (0.0, 500.0)),
    "ph": Kind("pH", (0.0, 14.0)),
}

#: Spellings as devices and OPC UA servers send them, lower case, blanks and the degree sign's variants taken out.
UNITS = {
    **dict.fromkeys(("degc", "°c", "c", "celsius", "cel"), Unit("temperature", 1.0)),
    **dict.fromkeys(("k", "kelvin"), Unit("temperature", 1.0, -273.15)),
    **dict.fromkeys(("degf", "°f", "f", "fahrenheit"), Unit("temperature", 5.0 / 9.0, -160.0 / 9.0)),
    "pa": Unit("pressure", 1.0),
    "hpa": Unit("pressure", 1e2),
    "kpa": Unit("pressure", 1e3),
    "mbar": Unit("pressure", 1e2),
    "bar": Unit("pressure", 1e5),
    "atm": Unit("pressure", 101_325.0),
    "psi": Unit("pressure", 6_894.757293168),
    **dict.fromkeys(("l/min", "lpm"), Unit("flow_rate", 1.0)),
    "ml/min": Unit("flow_rate", 1e-3),
    "l/s": Unit("flow_rate", 60.0),
    "l/h": Unit("flow_rate", 1.0 / 60.0),
    **dict.fromkeys(("m3/h", "m³/h", "m^3/h"), Unit("flow_rate", 1000.0 / 60.0)),
    **dict.fromkeys(("m3/s", "m³/s", "m^3/s"), Unit("flow_rate", 60_000.0)),
    **dict.fromkeys(("m3/min", "m³/min", "m^3/min"), Unit("flow_rate", 1000.0)),
    **dict.fromkeys(("ph", "1", ""), Unit("ph", 1.0)),  # no unit: the one kind that has none
}
#: Where the case of a letter is the unit (mPa is not MPa).
CASED_UNITS = {"MPa": Unit("pressure", 1e6), "mPa": Unit("pressure", 1e-3)}


def unit_of(spelling: str) -> Unit | None:
    """The unit behind a spelling, None where it is unknown or ambiguous."""
    plain = spelling.replace(" ", "").replace("º", "°").replace("℃", "°C").replace("℉", "°F")
    return CASED_UNITS.get(plain) or UNITS.get(plain.lower())


def convert(value: float, source: str, target: str) -> float | None:
    """A value in another unit of the same kind; None where a unit is unknown or the kinds differ.

    Equal spellings need no table: the value comes back as it is, whatever the unit.
    """
    if source == target:
        return value
    a, b = unit_of(source), unit_of(target)
    if a is None or b is None or a.kind != b.kind:
        return None
    return value if a == b else (a.factor * value + a.offset - b.offset) / b.factor


def convert_span(span: tuple[float, float], source: str, target: str) -> tuple[float, float] | None:
    """Both ends of a span in another unit, or None: see `convert`."""
    low, high = convert(span[0], source, target), convert(span[1], source, target)
    return None if low is None or high is None else (low, high)


def convert_difference(value: float, source: str, target: str) -> float | None:
    """A difference of two values (a rate, a tolerance) in another unit, or None: as `convert`, without the offset."""
    if source == target:
        return value
    a, b = unit_of(source), unit_of(target)
    if a is None or b is None or a.kind != b.kind:
        return None
    return value if a.factor == b.factor else value * a.factor / b.factor


def kind_of(tag: str) -> str:
    """The kind a tag's name says it is, "other" where it says none.

    The role behind the last dot does not count, nor does what stands before the last slash: `temperature`,
    `temperature_jacket`, `jacket/temperature`, `jacket_temperature` and `temperature.sv` are all temperatures.
    """
    name = tag.rsplit("/", 1)[-1].split(".", 1)[0].lower()
    for kind, word in (("temperature", "temperature"), ("pressure", "pressure"), ("flow_rate", "flow"), ("ph", "ph")):
        if name == word or name.startswith(f"{word}_"):
            return kind
    for kind in KINDS:
        if name.endswith(f"_{kind}"):
            return kind
    return "other"
