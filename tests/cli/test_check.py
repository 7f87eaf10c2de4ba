"""`twin check` asks the reactor models, too."""

from pathlib import Path

from typer.testing import CliRunner

from cli.check import model_problems
from cli.main import app
from runtime.config import Plant
from runtime.exit_codes import BAD_CONFIGURATION


def test_parameters_that_a_model_does_not_have_are_named() -> None:
    """An unknown parameter is reported with its pattern and the parameters that the model has."""
    plant = Plant.model_validate({"assets": {"R*": {"parameters": {"mass": 1.0}}, "S*": {"model": "cstr"}}})
    problems = model_problems(plant)
    assert len(problems) == 1
    assert problems[0].startswith('assets."R*": ')
    assert "mass" in problems[0]
    assert "mass_kg" in problems[0]


def test_patterns_that_make_no_model_together_are_named() -> None:
    """Each is good alone, but an asset that both match would have a batch reactor with a parameter of a cstr."""
    assets = {"R1*": {"model": "cstr", "parameters": {"volume_L": 90.0}}, "R?01": {"model": "batch_reactor"}}
    (problem,) = model_problems(Plant.model_validate({"assets": assets}))
    assert problem.startswith('assets."R1*" with "R?01": ')
    assert "volume_L" in problem
    assert model_problems(Plant.model_validate({"assets": {**assets, "R101": {"model": "cstr"}}})) == []


def test_a_twin_does_not_start_with_a_model_that_cannot_be(tmp_path: Path) -> None:
    """The agent says what `twin check` says, and leaves with code 78."""
    file = tmp_path / "plant.toml"
    file.write_text('[assets."R*"]\nparameters = {mass = 1.0}\n')
    done = [CliRunner().invoke(app, [*command, str(file)]) for command in (["check"], ["agent", "twin", "-c"])]
    assert [d.exit_code for d in done] == [BAD_CONFIGURATION] * 2
    assert done[0].stderr == done[1].stderr
    assert done[1].stderr.startswith(f'{file}: assets."R*": ')


def test_known_parameters_are_good() -> None:
    """A parameter that the model declares, in its range, is no problem."""
    assert model_problems(Plant.model_validate({"assets": {"R*": {"parameters": {"mass_kg": 900.0}}}})) == []
