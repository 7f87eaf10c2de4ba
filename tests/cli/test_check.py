"""`twin check` asks the reactor models, too."""

from cli.check import model_problems
from runtime.config import Plant


def test_parameters_that_a_model_does_not_have_are_named() -> None:
    """An unknown parameter is reported with its pattern and the parameters that the model has."""
    plant = Plant.model_validate({"assets": {"R*": {"parameters": {"mass": 1.0}}, "S*": {"model": "cstr"}}})
    problems = model_problems(plant)
    assert len(problems) == 1
    assert problems[0].startswith('assets."R*": ')
    assert "mass" in problems[0]
    assert "mass_kg" in problems[0]


def test_known_parameters_are_good() -> None:
    """A parameter that the model declares, in its range, is no problem."""
    assert model_problems(Plant.model_validate({"assets": {"R*": {"parameters": {"mass_kg": 900.0}}}})) == []
