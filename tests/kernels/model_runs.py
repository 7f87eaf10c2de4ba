"""Runs of one reactor model, for the tests of models: inputs by name, states by name."""

from collections.abc import Mapping

import numpy as np

from kernels.models.model import NO_INPUT, Floats, Model


class Run:
    """A model with its parameters; `set` gives inputs an estimate, `after` lets time pass."""

    def __init__(self, model: Model, parameters: Mapping[str, float] | None = None) -> None:
        self.model = model
        self.p = np.array(list(model.values(parameters or {}).values()))
        self.x, self.u = model.start(model.values(parameters or {}))

    def set(self, std: float = 0.0, **inputs: float) -> "Run":
        """Inputs by name."""
        names = [i.name for i in self.model.inputs]
        for name, value in inputs.items():
            self.u[:, names.index(name)] = value, std
        return self

    def after(self, *seconds: float) -> dict[str, float]:
        """States by name after these times, one event each."""
        n, ranks = len(seconds), np.zeros(len(self.model.inputs), np.int64)
        out = np.empty((n, len(self.x)))
        nothing, none = np.full(n, NO_INPUT), np.full(n, np.nan)
        self.model.fold(
            self.x, self.u, self.p, ranks, np.array(seconds), nothing, np.zeros(n, np.int64), none, none, out
        )
        return self.model.named(self.x)


def derivative(run: Run, rates: object) -> Floats:
    """Time derivatives of a run's states as they are."""
    dx = np.empty(len(run.x))
    rates(run.x, run.u, run.p, dx)  # type: ignore[operator]
    return dx
