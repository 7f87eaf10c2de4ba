"""A model run freely over spans as a function of the parameters that are sought, and what it is off by.

The vector that is sought: the logarithm of every fitted parameter; of k = A · exp(−E / (R · T)) its logarithm at a
temperature of the span, and E; then, span by span, by how much measured states began elsewhere than their first
reading says, and states that are not measured (the conversion) elsewhere than their parameter does. Knows plain arrays;
no files, no configuration.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from kernels.models.model import NO_INPUT, Model
from replay.fit.reactor_span import Span

Floats = NDArray[np.float64]

KELVIN = 273.15
#: The element of the vector that is E, in units of so many J/mol.
ENERGY_SCALE = 1e4
#: Name of the element that is the logarithm of k.
RATE = "log k"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Problem:
    """Spans that share their parameters. `given`: per span all parameters of the model, by which it begins.

    `at_K`: where k stands for A. `free`: names of parameters that are sought, RATE for k; the others keep `held`.
    `starts_known`: states that are not measured begin as given; else it is sought where.
    """

    model: Model
    spans: Sequence[Span]
    given: Sequence[Mapping[str, float]]
    at_K: float
    held: Mapping[str, float]
    free: tuple[str, ...]
    starts_known: bool = False

    @property
    def readings(self) -> int:
        """How many readings are compared."""
        return sum(len(span.at) for span in self.spans)

    def unmeasured(self, span: Span) -> list[str]:
        """Parameters by which states that a span does not measure begin, if it is sought where."""
        states = [s.parameter for i, s in enumerate(self.model.states) if i not in span.measured]
        return [] if self.starts_known else [name for name in states if name is not None]

    def within(self) -> tuple[Floats, Floats]:
        """Least and greatest value of every element of the vector."""
        spans, allowed = spans_of(self.model), {q.name: q.span for q in self.model.parameters}
        bounds = [spans[name] for name in self.free]
        for span, given in zip(self.spans, self.given, strict=True):
            bounds += [(-math.inf, math.inf)] * span.begin.size
            bounds += [(allowed[n][0] - given[n], allowed[n][1] - given[n]) for n in self.unmeasured(span)]
        low, high = np.array(bounds).reshape(-1, 2).T
        return low, high

    def started(self, vector: Floats) -> Iterator[tuple[str, str, float, int]]:
        """Asset, parameter, value and element of the vector of every start that is sought and not measured."""
        place = len(self.free)
        for span, given in zip(self.spans, self.given, strict=True):
            place += span.begin.size
            for name in self.unmeasured(span):
                yield span.asset, name, given[name] + float(vector[place]), place
                place += 1

    def parameters(self, vector: Floats) -> dict[str, float]:
        """The sought parameters, in the model's names and units."""
        element = dict(self.held) | dict(zip(self.free, vector.tolist(), strict=False))
        found = {f.name: math.exp(element[f.name]) for f in self.model.fitted}
        arrhenius = self.model.arrhenius
        if arrhenius is not None:
            energy = element[arrhenius.energy.name] * ENERGY_SCALE
            log_a = element[RATE] + energy / (arrhenius.gas_constant * self.at_K)
            found |= {arrhenius.energy.name: energy, arrhenius.frequency.name: math.exp(min(log_a, 690.0))}
        return found

    def off(self, vector: Floats, raw: Sequence[Floats] | None = None) -> Floats:
        """Model less reading in standard deviations of the reading, span after span.

        `raw`: other readings for the inputs, one array for each span.
        """
        sought = self.parameters(vector)
        parts, first = [], len(self.free)
        for i, span in enumerate(self.spans):
            last = first + span.begin.size
            begin = span.begin + vector[first:last].reshape(span.begin.shape)
            given = {**self.given[i], **sought}
            for name in self.unmeasured(span):
                given[name] += vector[last]
                last += 1
            states = simulate(self.model, given, span, begin, None if raw is None else raw[i])
            parts.append((states[span.at, span.state] - span.observed) / span.std)
            first = last
        return np.concatenate(parts)


def elements(model: Model, values: Mapping[str, float], at_K: float) -> dict[str, float]:
    """Parameters of a model as elements of the vector, in the order in which they stand there."""
    found = {f.name: math.log(max(values[f.name], f.span[0])) for f in model.fitted}
    arrhenius = model.arrhenius
    if arrhenius is not None:
        energy = values[arrhenius.energy.name]
        log_k = math.log(max(values[arrhenius.frequency.name], arrhenius.frequency.span[0]))
        found[RATE] = log_k - energy / (arrhenius.gas_constant * at_K)
        found[arrhenius.energy.name] = energy / ENERGY_SCALE
    return found


def spans_of(model: Model) -> dict[str, tuple[float, float]]:
    """Within what each element is sought."""
    found = {f.name: (math.log(f.span[0]), math.log(f.span[1])) for f in model.fitted}
    arrhenius = model.arrhenius
    if arrhenius is not None:
        low, high = arrhenius.rate_span
        found[RATE] = math.log(low), math.log(high)
        low, high = arrhenius.energy.span
        found[arrhenius.energy.name] = low / ENERGY_SCALE, high / ENERGY_SCALE
    return found


def simulate(
    model: Model, parameters: Mapping[str, float], span: Span, begin: Floats, raw: Floats | None = None
) -> Floats:
    """States after every event, shape (events, states). `begin`: (starts, measured states)."""
    x, u = model.start(parameters)
    u[0] = np.where(np.isnan(span.inputs), u[0], span.inputs)
    p = np.array([parameters[q.name] for q in model.parameters])
    value = span.values(span.raw if raw is None else raw)
    n = len(span.dt_s)
    std, entry_rank = np.zeros(n), np.zeros(n, np.int64)
    rank = np.zeros(len(model.inputs), np.int64)
    out = np.empty((n, len(x)))
    for k, first in enumerate(span.starts):
        last = span.starts[k + 1] if k + 1 < len(span.starts) else n
        cut = np.s_[first:last]
        if k:
            # Time passes to the event at which states begin anew, so that what is not measured comes along.
            nothing = np.full(1, NO_INPUT)
            model.fold(x, u, p, rank, span.dt_s[first : first + 1], nothing, entry_rank[:1], std[:1], std[:1], out[:1])
        x[list(span.measured)] = begin[k]
        dt_s = span.dt_s[cut].copy()
        dt_s[0] = 0.0
        model.fold(x, u, p, rank, dt_s, span.entry[cut], entry_rank[cut], value[cut], std[cut], out[cut])
    return out
