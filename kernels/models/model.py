"""What a reactor model is to the twin: declared states, inputs and parameters with units, and one jitted loop.

A model is one file of its own with everything its loop needs: jitted functions may only call those of their own file
(see `kernels.jit`). May not know: frames, tags' settings, clocks.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

#: No input: an event that only lets time pass.
NO_INPUT = -1

#: Signature of `Model.fold`, see there.
Fold = Callable[[Floats, Floats, Floats, I64, Floats, I64, I64, Floats, Floats, Floats], None]


class ParameterError(ValueError):
    """A parameter that the model cannot work with. The message names model, parameter, value and what is allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """A state of the model, the unit last in its name. `parameter` names the parameter that holds its start value."""

    name: str
    parameter: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A measured input. Estimates are converted to `unit` and limited to `span` before the model sees them.

    `tags` are names of tags that are taken for this input without being configured, the best first. `parameter` names
    the parameter that stands in until there is an estimate. `observes` is the state that this input measures: the
    model is corrected towards it.
    """

    name: str
    unit: str
    span: tuple[float, float]
    tags: tuple[str, ...]
    parameter: str | None = None
    observes: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A parameter with its default; the unit is last in its name. Values must lie within `span`."""

    name: str
    default: float
    span: tuple[float, float] = (0.0, math.inf)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fitted:
    """A positive parameter that readings can tell, and the span in which a fit looks for it, narrower than what the
    model takes. `unit` as people write it.
    """

    name: str
    unit: str
    span: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrhenius:
    """Which parameters are A and E of k = A · exp(−E / (R · T)), and the state, in degC, whose temperature T is.

    A fit seeks k at a temperature of the span in their place, within `rate_span` in 1/s: A and E alone are so strongly
    correlated that neither can be sought for itself.
    """

    frequency: Fitted
    energy: Fitted
    temperature: str
    gas_constant: float
    rate_span: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A reactor model.

    `fold(x, u, p, rank, dt_s, entry, entry_rank, value, std, out)` takes n events in order: lets `dt_s[i]` pass with
    the inputs held, sets input `entry[i]` (NO_INPUT: none) to `value[i]` with standard deviation `std[i]`, and writes
    the states to `out[i]` (n, states): what the model expected, since a value moves states only as time passes.
    Changed in place: `x` (states,), `u` (2, inputs: value, std; NaN where there is no estimate), `rank` (inputs,: how
    good the tag is that the value came from; a worse one is ignored). An observed input that is NaN is not corrected
    to, and the model's own state is used in its place: that makes the same loop the prediction.

    `fitted`, `arrhenius`: what a fit of parameters to readings may seek.
    """

    name: str
    states: tuple[State, ...]
    inputs: tuple[Input, ...]
    parameters: tuple[Parameter, ...]
    fold: Fold
    fitted: tuple[Fitted, ...] = ()
    arrhenius: Arrhenius | None = None

    def values(self, given: Mapping[str, float]) -> dict[str, float]:
        """All parameters: those given over the defaults. Raises ParameterError."""
        known = {q.name: q for q in self.parameters}
        for name, value in given.items():
            if name not in known:
                raise ParameterError(f"{self.name}: unknown parameter {name!r}, allowed are {', '.join(known)}")
            low, high = known[name].span
            if not (math.isfinite(value) and low <= value <= high):
                raise ParameterError(f"{self.name}: {name} = {value}, allowed is {low:g}…{high:g}")
        return {name: float(given.get(name, q.default)) for name, q in known.items()}

    def start(self, values: Mapping[str, float]) -> tuple[Floats, Floats]:
        """States and inputs before the first event: (states,), (2, inputs)."""
        x = np.array([0.0 if s.parameter is None else values[s.parameter] for s in self.states])
        u = np.full((2, len(self.inputs)), np.nan)
        for i, signal in enumerate(self.inputs):
            if signal.parameter is not None and signal.observes is None:
                u[0, i] = values[signal.parameter]
        u[1] = 0.0
        return x, u

    def observed(self) -> tuple[tuple[int, int], ...]:
        """(input, state) of every input that measures a state."""
        names = [s.name for s in self.states]
        return tuple((i, names.index(u.observes)) for i, u in enumerate(self.inputs) if u.observes is not None)

    def input_of(self, tag: str, given: Mapping[str, str]) -> tuple[int, int]:
        """Input that a tag is taken for, and its rank (0 is best); (NO_INPUT, 0) where it is none.

        `given` maps input to tag; an input named there takes no other tag. Raises ParameterError for an unknown one.
        """
        names = [u.name for u in self.inputs]
        for name in given:
            if name not in names:
                raise ParameterError(f"{self.name}: unknown input {name!r}, allowed are {', '.join(names)}")
        for i, signal in enumerate(self.inputs):
            candidates = (given[signal.name],) if signal.name in given else signal.tags
            if tag in candidates:
                return i, candidates.index(tag)
        return NO_INPUT, 0

    def named(self, x: Floats) -> dict[str, float]:
        """States by name."""
        return dict(zip((s.name for s in self.states), x.tolist(), strict=True))


def parameters(*declared: tuple[Any, ...]) -> tuple[Parameter, ...]:
    """Parameters from (name, default[, span])."""
    return tuple(
        Parameter(name=d[0], default=d[1]) if len(d) == 2 else Parameter(name=d[0], default=d[1], span=d[2])
        for d in declared
    )
