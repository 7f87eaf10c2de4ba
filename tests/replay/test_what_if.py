"""Settings of a what-if, and what else a user may ask for wrongly."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli.main import app
from replay.results.provenance import params_digest
from replay.run import Request, RequestError
from replay.sources.span import SpanError, duration_s, time_ms
from runtime.config import ConfigurationError, Plant
from runtime.load import load, load_changed

BASE = """
[kafka]
partitions = 4
[tags."*"]
interval_s = 2.0
validation = { zscore_limit = 4.0 }
[tags."R1/ph"]
validation = { zscore_limit = 5.0 }
"""


def files(folder: Path, changes: str, base: str = BASE) -> tuple[Path, Path]:
    """A configuration and changes to it."""
    plain, changed = folder / "plant.toml", folder / "new.toml"
    plain.write_text(base)
    changed.write_text(changes)
    return plain, changed


def test_changes_are_merged_key_by_key(tmp_path: Path) -> None:
    """What the file names is changed, everything beside it stays, also in a pattern that both have."""
    plain, changed = files(tmp_path, '[tags."*"]\nvalidation = { spike_percent = 7.0 }\n[twin]\nquality_window = 20')
    plant = load_changed(plain, changed)
    other = plant.tag("R2", "temperature")
    assert (other.interval_s, other.validation.zscore_limit, other.validation.spike_percent) == (2.0, 4.0, 7.0)
    assert plant.tag("R1", "ph").validation.zscore_limit == 5.0
    assert (plant.twin.quality_window, plant.kafka.partitions) == (20, 4)
    assert params_digest(plant) != params_digest(load(plain))


def test_a_file_without_changes_changes_nothing(tmp_path: Path) -> None:
    """An empty file gives the configuration itself, with the same digest of parameters."""
    plain, changed = files(tmp_path, "")
    assert load_changed(plain, changed) == load(plain)
    assert params_digest(load_changed(plain, changed)) == params_digest(load(plain))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ("[kafka]\npartitions = 8", "kafka: cannot be changed here, allowed are tags, assets, twin"),
        ('[tags."*"]\nvalidation = { zscore = 3 }', "validation.zscore: unknown key, allowed are"),
        ("[twin]\nquality_window = 1", "twin.quality_window = 1"),
        ("twin = ", "is not valid TOML"),
    ],
)
def test_a_wrong_change_is_named(tmp_path: Path, changes: str, says: str) -> None:
    """The error names the file with the changes, the key, its value and what is allowed."""
    plain, changed = files(tmp_path, changes)
    with pytest.raises(ConfigurationError) as error:
        load_changed(plain, changed)
    assert says in str(error.value)
    assert str(changed) in str(error.value)


def test_digest_of_parameters_is_of_what_stages_see() -> None:
    """Where Kafka is does not matter to it; any setting of a tag, an asset or the twin does, also in its order."""
    plant = Plant()
    assert params_digest(plant) == params_digest(plant.model_copy(update={"kafka": plant.kafka.as_role("viewer")}))
    assert params_digest(Plant(assets={"R1": {"model": "cstr"}})) != params_digest(plant)
    one, two = ({f"R{n}*": {"horizon_s": n}} for n in (1, 2))
    assert params_digest(Plant(assets={**one, **two})) != params_digest(Plant(assets={**two, **one}))


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [
        ("run", "a b", "--run 'a b': allowed are up to 64"),
        ("workers", 0, "--workers 0: allowed is at least 1"),
        ("state", "warm", "--state 'warm': allowed are nothing, warmup=10m"),
    ],
)
def test_a_request_that_cannot_be(option: str, value: object, says: str) -> None:
    """A wrong option is refused before anything is read, with its name, its value and what is allowed."""
    asked: dict[str, object] = {"run": "a", option: value}
    with pytest.raises(RequestError, match=says):
        Request(plant=Plant(), begin="beginning", end="now", **asked)  # type: ignore[arg-type]


def test_times_and_durations() -> None:
    """ISO times are UTC where they have no zone; durations have a unit."""
    assert time_ms("1970-01-02", "--from") == 86_400_000
    assert time_ms("1970-01-01T01:00:00+01:00", "--from") == 0
    assert time_ms("beginning", "--from") is None
    assert [duration_s(text, "--state") for text in ("90s", "10m", "1.5h", "2d")] == [90, 600, 5400, 172_800]
    with pytest.raises(SpanError, match="--state '10': allowed is a number and s, m, h or d"):
        duration_s("10", "--state")


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["--to-where", "disk", "--run", "a"], 1, "--to-where 'disk': allowed are topics, parquet, influxdb, none"),
        (["--frames", "wider", "--run", "a"], 1, "--frames 'wider': allowed are as-live, wide"),
        (["--state", "warmup=long", "--run", "a"], 1, "warmup 'long': allowed is a number and s, m, h or d"),
        ([], 1, "--run is missing"),
        (["--params", "/nowhere.toml"], 78, "--params /nowhere.toml: cannot be read"),
    ],
)
def test_the_command_says_what_is_wrong(arguments: list[str], code: int, says: str) -> None:
    """One line that names the option, and an exit code that is not 0."""
    result = CliRunner().invoke(app, ["replay", "--from", "beginning", "--to", "now", *arguments])
    assert result.exit_code == code
    assert says in " ".join(result.output.split())


def test_a_correction_looks_at_its_options_before_it_asks_kafka() -> None:
    """A warm-up that is no duration is refused at once, with its value and what is allowed."""
    result = CliRunner().invoke(app, ["correct", "--from", "beginning", "--to", "now", "--warmup", "long"])
    assert result.exit_code == 1
    assert "warmup 'long': allowed is a number and s, m, h or d" in " ".join(result.output.split())
