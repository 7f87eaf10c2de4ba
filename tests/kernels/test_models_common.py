"""What every reactor model keeps to."""

import inspect
from typing import get_args

import numpy as np
import pytest

from kernels.models import MODELS, batch_reactor
from kernels.models.model import NO_INPUT, ParameterError
from kernels.units import unit_of
from runtime.config import Asset
from tests.kernels.model_runs import Run

pytestmark = pytest.mark.parametrize("name", MODELS)


def _integrator(name: str) -> str:
    module = inspect.getmodule(MODELS[name].fold.py_func)  # type: ignore[attr-defined]
    assert module is not None
    source = inspect.getsource(module)
    constants = source[source.index("STEP_MAX_S =") : source.index("STEPS_MAX = 10_000")]
    return constants + source[source.index("# ---- integrator begins") : source.index("# ---- integrator ends")]


def test_the_integrator_is_the_same_text_in_every_model(name: str) -> None:
    """Jitted functions cannot be shared between files, so the copies are held together here."""
    assert _integrator(name) == _integrator("batch_reactor")


def test_a_model_can_be_configured(name: str) -> None:
    """Every model's name is one that the configuration takes."""
    assert name in get_args(Asset.model_fields["model"].annotation)


def test_declarations_are_consistent(name: str) -> None:
    """Start values are parameters, inputs have known units, and defaults lie within their spans."""
    model = MODELS[name]
    names = {p.name for p in model.parameters}
    assert all(s.parameter is None or s.parameter in names for s in model.states)
    assert all(i.parameter is None or i.parameter in names for i in model.inputs)
    assert all(unit_of(i.unit) is not None for i in model.inputs)
    assert all(p.span[0] <= p.default <= p.span[1] for p in model.parameters)
    taken = [tag for i in model.inputs for tag in i.tags]
    assert len(taken) == len(set(taken))
    assert model.values(model.values({})) == model.values({})
    assert model.arrhenius is not None
    assert model.arrhenius.temperature in [s.name for s in model.states]
    spans = {p.name: p.span for p in model.parameters}
    for sought in (*model.fitted, model.arrhenius.frequency, model.arrhenius.energy):
        low, high = spans[sought.name]
        assert low <= sought.span[0] <= model.values({})[sought.name] <= sought.span[1] <= high
        assert sought.span[0] > 0.0


def test_the_integrator_is_of_fourth_order(name: str) -> None:
    """Halving the step divides the error by 16, that of one step by 32: measured from a state that moves."""

    def error(h: float) -> float:
        fine, coarse = Run(MODELS[name], START[name]), Run(MODELS[name], START[name])
        fine.after(*[h / 64] * 64)
        coarse.after(h)
        return float(np.max(np.abs(fine.x - coarse.x)))

    assert error(2.0 * STEP_S[name]) / error(STEP_S[name]) == pytest.approx(32.0, rel=0.15)


#: Where something happens fast enough to see the error, and slow enough for one step.
START = {
    "batch_reactor": {"temperature_degC": 140.0, "reaction_heat_J_per_kg": 5e4},
    "cstr": {"temperature_degC": 110.0, "conversion": 0.3},
}
STEP_S = {"batch_reactor": 0.2, "cstr": 0.02}


def test_cutting_the_time_changes_next_to_nothing(name: str) -> None:
    """One event after 300 s and 3,000 events after 0.1 s each end at the same states."""
    once, often = Run(MODELS[name]), Run(MODELS[name])
    once.after(300.0)
    often.after(*[0.1] * 3000)
    np.testing.assert_allclose(once.x, often.x, rtol=2e-4, atol=1e-6)


def test_a_long_time_costs_no_more_than_an_hour(name: str) -> None:
    """A year without readings is coasted through for an hour, then the states stay."""
    year, hour = Run(MODELS[name]), Run(MODELS[name])
    assert year.after(365 * 86_400.0) == hour.after(batch_reactor.COAST_MAX_S)


def test_an_input_takes_its_best_tag(name: str) -> None:
    """Once a better tag has given an input, a worse one is ignored."""
    run = Run(MODELS[name])
    ranks = np.full(len(run.model.inputs), 9)
    out = np.empty((3, len(run.x)))
    entry, rank = np.array([0, 0, 0]), np.array([1, 0, 1])
    run.model.fold(run.x, run.u, run.p, ranks, np.zeros(3), entry, rank, np.array([50.0, 60.0, 70.0]), np.ones(3), out)
    assert run.u[0, 0] == 60.0
    assert ranks[0] == 0


def test_wrong_parameters_and_inputs_are_named(name: str) -> None:
    """Unknown names and values outside their span raise ParameterError with what is allowed."""
    model = MODELS[name]
    with pytest.raises(ParameterError, match=r"unknown parameter 'mass', allowed are .*observer_s"):
        model.values({"mass": 1.0})
    with pytest.raises(ParameterError, match=r"observer_s = 0.0, allowed is 1…1e\+06"):
        model.values({"observer_s": 0.0})
    with pytest.raises(ParameterError, match=r"observer_s = nan"):
        model.values({"observer_s": float("nan")})
    with pytest.raises(ParameterError, match=r"unknown input 'jacket', allowed are temperature"):
        model.input_of("x", {"jacket": "TI-7"})


def test_a_configured_input_takes_its_tag_only(name: str) -> None:
    """`inputs` names the tag of an input; the usual tag is then no input any more."""
    model = MODELS[name]
    assert model.input_of("temperature", {}) == (0, 0)
    assert model.input_of("TI-101", {"temperature": "TI-101"}) == (0, 0)
    assert model.input_of("temperature", {"temperature": "TI-101"}) == (NO_INPUT, 0)
    assert model.input_of("level", {}) == (NO_INPUT, 0)
