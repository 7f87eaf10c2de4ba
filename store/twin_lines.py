"""Line protocol of a twin state: one `reactor_twin` point per asset and event time.

| field (units last)                                    | from                                                  |
|-------------------------------------------------------|-------------------------------------------------------|
| `temperature_degC`, `temperature_rate_degC_per_s`,    | a variable: value, rate, standard deviation, estimate |
| `temperature_std_degC`, `temperature_residual_degC`,  | minus model, rolling errors of the model, age of its  |
| `temperature_rmse_degC`, `temperature_mae_degC`,      | newest reading, and (int) its quality flag            |
| `temperature_r2`, `temperature_age_s`,                |                                                       |
| `temperature_flag`                                    |                                                       |
| `conversion`, `model_temperature_degC`                | the model's own states; `model_` before those that    |
|                                                       | have a unit, as measured variables do                 |
| `conversion_60s`, `temperature_60s_degC`              | the prediction at the horizon                         |
| `newest_age_s`, `coverage`, `latency_ms`, `horizon_s` | quality of the synchronisation                        |
| `connected` (int, 1 where every source is)            | the sources' connections                              |
| `model` (string), `source` (string), `seq`, `epoch`,  | where the state comes from                            |
| `readings` (int)                                      |                                                       |

A number that is unknown or not finite is absent. Several states of one event time leave one point, the last.

Where a key of a variable is taken, by our own names, the model's or a variable that the twin saw earlier, all keys of
the later one have its unit in brackets before anything else: beside `flow` in L, `flow_rate` in L/s is written as
`flow_rate[L_per_s]`, `flow_rate[L_per_s]_std` and so on, a unitless tag `model` as `model[]`. What ends in `_flag` is
always a flag: a unitless tag `valve_flag` is `valve_flag[]`. Rule: no I/O here.
"""

import re
from functools import lru_cache
from math import isfinite

from schemas.records import TwinState, Variable
from store.line_protocol import UnstorableError, checked_time, field_key, float_fields, tag_value, text_value

_UNIT_NAMES = {"%": "percent", "°C": "degC", "°F": "degF"}
#: How a unit looks at the end of a name, so that the horizon can go before it.
_UNIT_AT_END = re.compile(r"_((?:deg[CFR]|[kM]?Pa|bar|psi|K|W|kW|s|ms|min|h|m|mm|m2|m3|L|kg|g|mol|kmol|J|kJ|percent)"
                          r"(?:_per_[A-Za-z0-9_]+)?)$")  # fmt: skip
_OWN = ("model", "source", "epoch", "seq", "readings", "connected")
#: What a field must not be called: tags of the point, and the other columns of an answer to a query.
_NO_FIELDS = ("reactor_id", "run", "time", "name", "tags")


def state_line(state: TwinState) -> str:
    """One point of `reactor_twin`. Raises UnstorableError."""
    horizon = f"{state.horizon_s:g}s"
    numbers: dict[str, float | None] = {
        **{field_key(_of_model(name, state)): value for name, value in state.model_states.items()},
        **{field_key(with_horizon(name, horizon)): value for name, value in state.prediction.items()},
        "horizon_s": state.horizon_s,
        "newest_age_s": state.newest_age_s,
        "coverage": state.coverage,
        "latency_ms": state.latency_ms,
    }
    taken = {f",{key}=" for key in (*_OWN, *_NO_FIELDS, *numbers)}
    fields = [
        f"reactor_twin,reactor_id={tag_value(state.asset)} model={text_value(state.model)}",
        f",source={text_value(state.source)},epoch={state.epoch}i,seq={state.seq}i,readings={state.readings}i",
        f",connected={int(all(state.connections.values()))}i",
        float_fields(numbers),
        *(_variable_fields(name, variable, taken) for name, variable in state.variables.items()),
    ]
    return f"{''.join(fields)} {checked_time(state.time_ns)}"


def _of_model(name: str, state: TwinState) -> str:
    """The name of a model state, never that of a measured variable's value."""
    return f"model_{name}" if name in state.variables or _UNIT_AT_END.search(name) else name


def with_horizon(name: str, horizon: str) -> str:
    """The name of a predicted state: the horizon before the unit, `temperature_60s_degC`."""
    unit = _UNIT_AT_END.search(name)
    return f"{name}_{horizon}" if unit is None else f"{name[: unit.start()]}_{horizon}_{unit[1]}"


def unit_suffix(unit: str) -> str:
    """A unit as the end of a name: `L/min` → `_L_per_min`; nothing for none."""
    name = _UNIT_NAMES.get(unit, unit).replace("/", "_per_")
    cleaned = re.sub(r"\W+", "_", name).strip("_")
    return f"_{cleaned}" if cleaned else ""


def _variable_fields(name: str, variable: Variable, taken: set[str]) -> str:
    keys = _free_keys(name, variable.unit, taken)
    numbers = (
        variable.value,
        variable.rate,
        variable.std,
        variable.residual,
        variable.rmse,
        variable.mae,
        variable.r2,
        variable.age_s,
    )
    there = [f"{key}{n!r}" for key, n in zip(keys, numbers, strict=False) if n is not None and isfinite(n)]
    return "".join(there) + (f"{keys[-1]}{variable.flag}i" if keys else "")


def _free_keys(name: str, unit: str, taken: set[str]) -> tuple[str, ...]:
    """A variable's keys, none of them taken yet; from now on they are.

    InfluxDB keeps one of two numbers with the same key, and refuses every state if one is an integer.
    """
    keys, brackets = _variable_keys(name, unit), 0
    while not taken.isdisjoint(keys):
        brackets += 1
        keys = _variable_keys(name, unit, brackets)
    taken.update(keys)
    return keys


@lru_cache(maxsize=65_536)
def _variable_keys(name: str, unit: str, brackets: int = 0) -> tuple[str, ...]:
    """`,key=` of a variable's fields; none for a name that line protocol cannot write (its readings are rejected).

    The value's is first, the flag's last. `brackets`: how often the unit follows the name in brackets; 0: it is at the
    end, without.
    """
    suffix = unit_suffix(unit)
    try:
        key = field_key(name)
    except UnstorableError:
        return ()
    if brackets:
        key, suffix = key + f"[{suffix[1:]}]" * brackets, ""
    per_second = f"{suffix}_per_s" if suffix else "_per_s"
    ends = (suffix, f"_rate{per_second}", *(f"_{n}{suffix}" for n in ("std", "residual", "rmse", "mae")))
    keys = tuple(f",{key}{end}=" for end in (*ends, "_r2", "_age_s", "_flag"))
    if keys[0].endswith("_flag=") or keys[0] in keys[1:]:
        return _variable_keys(name, unit, 1)
    return keys
