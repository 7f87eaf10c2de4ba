"""`twin fit` over runs: what it prints, what it writes, and that the file is one that a configuration takes."""

import math
import re
import tomllib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner, Result

from cli.main import app
from plant import datasets
from plant.physics import Constants, Reactors
from plant.sensors import SENSORS
from runtime.load import load, load_changed
from schemas.quality import Test
from tests.replay import made_runs

Floats = NDArray[np.float64]
HEAT, U, A, E = 60_000.0, 430.0, 2.2e10, 8.3e4
TAGS = ("temperature", "temperature_jacket", "pressure", "flow_rate")
UNITS = {s.tag: s.unit for s in SENSORS}
CONFIG = f"""
[tags."*/temperature*"]
unit = "degC"
[tags."*/pressure"]
unit = "bar"
[tags."*".estimation]
noise_model = "white_acceleration"
gate_nis = "off"
[assets."R*"]
model = "batch_reactor"
[assets."R*".parameters]
reaction_heat_J_per_kg = {HEAT}
"""


def batches(reactors: int, seconds: float = 800.0, seed: int = 3) -> dict[str, dict[str, Floats]]:
    """Readings twice a second of reactors that share their parameters: asset → tag → values."""
    random = np.random.default_rng(seed)
    constants = Constants(
        heat_transfer_W_per_m2_K=U,
        frequency_factor_per_s=A,
        activation_energy_J_per_mol=E,
        reaction_heat_J_per_kg=HEAT,
    )
    plant, sensors = Reactors(reactors, constants), [s for s in SENSORS if s.tag in TAGS]
    rows = []
    for n in range(round(seconds * 2) + 1):
        if n:
            plant.step(0.5)
        rows.append([s.truth(plant) for s in sensors])
    truth = np.array(rows)
    return {
        f"R{101 + i}": {
            s.tag: np.round(truth[:, k, i] + s.noise * random.standard_normal(len(rows)), s.decimals)
            for k, s in enumerate(sensors)
        }
        for i in range(reactors)
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `plant.toml` and the run of two reactors: one with spikes, a hole, texts, and a repeated frame."""
    folder = tmp_path_factory.mktemp("fit")
    (folder / "plant.toml").write_text(CONFIG, "utf-8")
    readings = batches(2)
    bad = readings["R102"]["temperature"]
    bad[200:1000:200] += 40.0
    bad[501:520] = np.nan
    plain = tomllib.loads(CONFIG)
    chosen = made_runs.settings(plain["tags"], plain["assets"])
    frames = {asset: made_runs.frames(asset, series, step_s=0.5, units=UNITS) for asset, series in readings.items()}
    del frames["R102"][14:17]
    frames["R102"].insert(8, frames["R102"][7])
    frames["R102"] = [f for i, f in enumerate(frames["R102"]) if i != 8]
    made_runs.write(folder / "made", frames, chosen, params="0123")
    return folder


def fit(folder: Path, *options: str, run: str = "made") -> Result:
    """The command."""
    config = [] if "--config" in options else ["--config", str(folder / "plant.toml")]
    return CliRunner().invoke(app, ["fit", str(folder / run), *config, *options], catch_exceptions=False)


def intervals(text: str) -> dict[str, tuple[float, float]]:
    """What the comments in the file say: `table.key` → interval."""
    table, found = "", {}
    for line in text.splitlines():
        if line.startswith("["):
            table = line.strip("[]")
        elif "…" in line and "=" in line:
            ends = re.search(r"# (\S+)…(\S+) ", line)
            assert ends is not None
            found[f"{table}.{line.split()[0]}"] = (float(ends[1]), float(ends[2]))
    return found


def test_the_file_holds_the_truth_and_is_taken_by_the_configuration(run: Path, tmp_path: Path) -> None:
    """Noise in the configuration's unit (bar, where readings are in kPa) and U, A, E: intervals and merged values."""
    file = tmp_path / "params.toml"
    done = fit(run, "--out", str(file))
    assert done.exit_code == 0, done.output
    text = file.read_text("utf-8")
    found = intervals(text)
    for asset in ("R101", "R102"):
        for tag, r in (("temperature", 0.01), ("temperature_jacket", 0.01), ("pressure", 4e-4)):
            low, high = found[f'tags."{asset}/{tag}".estimation.measurement_noise']
            assert 0.95 * low < r < 1.05 * high, (asset, tag)
        for name, truth in (("heat_transfer_W_per_m2_K", U), ("activation_energy_J_per_mol", E)):
            low, high = found[f"assets.{asset}.parameters.{name}"]
            assert low <= truth <= high, (asset, name)
    before = load(run / "plant.toml")
    merged = load_changed(run / "plant.toml", file)
    plain = tomllib.loads(text)
    for pattern, values in plain["tags"].items():
        after = merged.tag(*pattern.split("/"))
        assert after.estimation.measurement_noise == values["estimation"]["measurement_noise"]
        assert after.estimation.noise_model == before.tag(*pattern.split("/")).estimation.noise_model
    assert merged.asset("R101").parameters["reaction_heat_J_per_kg"] == HEAT
    assert merged.asset("R101").parameters.keys() >= plain["assets"]["R101"]["parameters"].keys()
    whole = tmp_path / "whole.toml"
    whole.write_text(CONFIG + text, "utf-8")
    assert load(whole).tag("R101", "pressure") == merged.tag("R101", "pressure")


def test_the_file_says_what_it_was_made_of(run: Path, tmp_path: Path) -> None:
    """Run, parameters, version, span and number of readings."""
    file = tmp_path / "params.toml"
    assert fit(run, "--out", str(file), "--tags", "temperature", "--no-reactor").exit_code == 0
    head = [line for line in file.read_text("utf-8").splitlines() if line.startswith("# ")]
    assert any(re.search(r"Run made: params 0123", line) for line in head)
    assert any("Version " in line for line in head)
    assert any(
        re.search(r"Span 2023-11-14T22:13:20.000Z to 2023-11-14T22:26:40.000Z, \d+ readings", line) for line in head
    )
    plain = tomllib.loads(file.read_text("utf-8"))
    assert set(plain["tags"]) == {"R101/temperature", "R102/temperature"}
    assert "assets" not in plain


def test_a_replay_with_the_file_is_consistent(run: Path, tmp_path: Path) -> None:
    """The stages folded again with the fitted noise: mean NIS near 1, where it was far from it."""
    file = tmp_path / "params.toml"
    assert fit(run, "--out", str(file), "--assets", "R101", "--no-reactor").exit_code == 0
    before, after = load(run / "plant.toml"), load_changed(run / "plant.toml", file)
    frames = made_runs.frames("R101", batches(1)["R101"], step_s=0.5, units=UNITS)
    nis = []
    for plant in (before, after):
        chosen = made_runs.settings(plant.tags, {"*": {"model": "none"}})
        outputs = [estimates for estimates, _ in made_runs.results("R101", frames, chosen)]
        values = np.concatenate([f.nis[f.tag == f.tags.index("temperature")] for f in outputs])
        nis.append(float(np.nanmean(values)))
    assert nis[0] < 0.2
    assert nis[1] == pytest.approx(1.0, abs=0.1)


def test_limits_turn_on_a_drift_test_that_is_silent_where_they_were_found(run: Path, tmp_path: Path) -> None:
    """Without --limits the file has no threshold; with them the same readings, folded again, give no drift."""
    plain, file = tmp_path / "plain.toml", tmp_path / "limits.toml"
    options = ("--assets", "R101", "--tags", "temperature", "--no-reactor", "--out")
    assert fit(run, *options, str(plain)).exit_code == 0
    assert "drift_threshold" not in plain.read_text("utf-8")
    assert fit(run, *options, str(file), "--limits").exit_code == 0
    plant = load_changed(run / "plant.toml", file)
    threshold = plant.tag("R101", "temperature").estimation.drift_threshold
    assert threshold is not None
    assert 2.0 < threshold < 50.0
    frames = made_runs.frames("R101", {"temperature": batches(2)["R101"]["temperature"]}, step_s=0.5, units=UNITS)
    chosen = made_runs.settings(plant.tags, {"*": {"model": "none"}})
    tests = np.concatenate([out.tests for out, _ in made_runs.results("R101", frames, chosen)])
    assert not (tests & int(Test.DRIFT)).any()


def test_the_start_is_sought_unless_it_is_said_to_be_known(run: Path) -> None:
    """The table says with what conversion the run began and how surely, or that it was taken as it was."""

    def told(*options: str) -> str:
        """Without the table's lines."""
        return " ".join(re.findall(r"[\w±.-]+", fit(run, "--no-noise", "--assets", "R101", *options).output))

    assert re.search(r"R101 begins with conversion [\d.e-]+ ± [\d.e-]+", told())
    assert re.search(r"R101 begins with conversion 0 as configured", told("--known-start"))


def test_assets_together_share_their_parameters(run: Path, tmp_path: Path) -> None:
    """One set of parameters, written for both."""
    file = tmp_path / "params.toml"
    assert fit(run, "--out", str(file), "--no-noise", "--together").exit_code == 0
    plain: dict[str, Any] = tomllib.loads(file.read_text("utf-8"))
    assert plain["assets"]["R101"] == plain["assets"]["R102"]
    assert "tags" not in plain


def test_a_later_pattern_that_wins_is_told(run: Path, tmp_path: Path) -> None:
    """A fitted value that the configuration would overrule does not pass in silence."""
    config = tmp_path / "plant.toml"
    config.write_text('[tags."R101/temperature".estimation]\nmeasurement_noise = 1.0\n' + CONFIG.replace(
        'gate_nis = "off"', 'gate_nis = "off"\nmeasurement_noise = 2.0'), "utf-8")  # fmt: skip
    file = tmp_path / "params.toml"
    options = ("--assets", "R101", "--tags", "temperature", "--no-reactor", "--out", str(file))
    done = fit(run, *options, "--config", str(config))
    assert "a later pattern of the configuration says 2.0" in " ".join(done.output.split())


def test_tennessee_eastmans_normal_file_through_a_run(tmp_path: Path) -> None:
    """The five tags of plant/datasets.toml as a run, with the settings there."""
    data = datasets.load(datasets.DIRECTORY / "tennessee_eastman" / "d00_te.dat")
    tags = ("xmeas_07", "xmeas_08", "xmeas_09", "xmeas_21", "xmv_10")
    plain = tomllib.loads((datasets.DIRECTORY.parent / "datasets.toml").read_text("utf-8"))
    series = {tag: np.array([row.values[data.tags.index(tag)] for row in data.rows]) for tag in tags}
    units = {tag: data.units[data.tags.index(tag)] for tag in tags}
    frames = made_runs.frames("TE00", series, step_s=datasets.TE_INTERVAL_S, units=units)
    made_runs.write(tmp_path / "te", {"TE00": frames}, made_runs.settings(plain["tags"], plain["assets"]))
    config = str(datasets.DIRECTORY.parent / "datasets.toml")
    done = fit(tmp_path, "--out", str(tmp_path / "te.toml"), "--config", config, run="te")
    assert done.exit_code == 0, done.output
    merged = load_changed(Path(config), tmp_path / "te.toml")
    for tag in tags:
        found = merged.tag("TE00", tag).estimation
        assert found.process_noise is not None
        assert found.measurement_noise is not None
        assert (
            0.3 < found.measurement_noise / float(plain["tags"][f"TE*/{tag}"]["estimation"]["measurement_noise"]) < 3.0
        )


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--assets", "R999"), "no readings of asset 'R999'; there are R101, R102"),
        (("--tags", "temperature,ph"), "no readings of tag 'ph'; there are flow_rate, pressure, temperature"),
        (("--to", "2023-11-14T22:13:25Z"), "nothing could be fitted; the notes say why"),
    ],
)
def test_what_cannot_be_fitted_is_one_clear_line(run: Path, options: tuple[str, ...], says: str) -> None:
    """Unknown assets and tags, and a span of 5 s: exit code 1, and what there is or is missing."""
    done = fit(run, *options)
    assert done.exit_code == 1
    said = " ".join((done.output + done.stderr).split())
    assert says in said
    if "nothing" in says:
        assert "usable readings, at least 31 are needed" in said


def test_values_in_the_file_are_finite(run: Path, tmp_path: Path) -> None:
    """No infinity and no 0 gets into a configuration."""
    file = tmp_path / "params.toml"
    assert fit(run, "--out", str(file), "--to", "2023-11-14T22:15:00Z").exit_code == 0
    for values in tomllib.loads(file.read_text("utf-8"))["tags"].values():
        assert all(math.isfinite(v) and v > 0.0 for v in values["estimation"].values())
