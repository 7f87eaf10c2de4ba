"""The command line on a running system: what a user types and reads."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from schemas.quality import Mark
from tests.end_to_end.system_tools import System, twin

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def played(system: System) -> System:
    """The system after ten seconds of the plant, with everything drained."""
    done = system.twin("plant", "run", "--seconds", "10", "--no-faults", "--reactors", "1")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["drained"] is True
    time.sleep(2)
    return system


def test_env_prints_every_address(system: System) -> None:
    """`twin env` prints the KEY=value lines that other programs need."""
    assert {
        "KAFKA_BOOTSTRAP", "MQTT_HOST", "MQTT_PORT", "OPCUA_URL", "INFLUX_URL", "INFLUX_ORG", "INFLUX_BUCKET",
        "INFLUX_TOKEN",
    } <= system.env.keys()  # fmt: skip


def test_status_shows_every_process_healthy_and_without_lag(played: System) -> None:
    """`twin status` has a row per process with state, lag and rate; each comes to have no lag."""
    deadline, behind = time.monotonic() + 60, {"validation", "estimation", "twin", "sink"}
    while behind:  # heartbeats go on, so that not all of them need to be without lag at the same time
        shown = played.twin("status", "--json")
        rows = {row["name"]: row for row in map(json.loads, shown.stdout.splitlines())}
        lags = {name: row["lag_frames"] for name, row in rows.items() if row["lag_frames"] is not None}
        assert behind <= lags.keys()
        behind -= {name for name, lag in lags.items() if lag == 0}
        assert time.monotonic() < deadline, lags
    ours = ["validation", "estimation", "twin", "sink", "mqtt-1", "opcua-1"]
    assert {rows[name]["state"] for name in ours} == {"running"}
    assert all(rows[name]["restarts"] == 0 for name in ours)
    assert all(rows[name]["healthy"] for name in ours if name != "opcua-1")  # its server, the plant, has left
    assert "validation" in played.twin("status").stdout


def test_tail_shows_records_of_every_topic(played: System) -> None:
    """`twin tail` decodes raw, validated, estimates, state and a changelog."""
    for topic, kind in [
        ("raw", "Frame"), ("validated", "ValidatedFrame"), ("estimates", "EstimateFrame"), ("state", "TwinState"),
        ("twin-validation-rows-changelog", "StageState"),
    ]:  # fmt: skip
        lines = played.twin("tail", topic, "--from-start", "--seconds", "3").stdout.splitlines()
        records = [json.loads(line) for line in lines]
        assert records, topic
        assert {record["type"] for record in records} == {kind}
        assert {record["asset"] for record in records} == {"R101"}


def test_tail_of_an_unknown_topic_names_the_known_ones(system: System) -> None:
    """A topic that is not in the table is answered with those that are."""
    done = system.twin("tail", "nonsense")
    assert done.returncode == 1
    assert "topic 'nonsense' is unknown, allowed are raw, validated, estimates, state" in done.stderr


def test_queries_print_what_the_store_holds(played: System) -> None:
    """`twin query` latest, range and window agree about the same readings; JSON and CSV are exact."""
    ranged = played.twin("query", "range", "R101", "temperature", "--format", "json").stdout.splitlines()
    everything = [json.loads(line) for line in ranged]
    rows = [row for row in everything if not row["mark"] & Mark.IMPUTED]  # the tag is silent since the plant left
    assert len(rows) == 100
    latest = json.loads(played.twin("query", "latest", "R101", "temperature", "--format", "json").stdout)
    assert latest["time"] >= everything[-1]["time"]
    csv = played.twin("query", "range", "R101", "temperature", "--format", "csv").stdout.splitlines()
    assert float(csv[1].split(",")[1]) == rows[0]["value"]
    windows = played.twin("query", "window", "R101", "temperature", "--every", "1h", "--format", "json").stdout
    assert sum(json.loads(line)["count"] for line in windows.splitlines()) == 100


def test_query_of_an_unknown_tag_names_the_known_ones(played: System) -> None:
    """A tag without readings is answered with the tags of the asset."""
    done = played.twin("query", "latest", "R101", "nonsense")
    assert done.returncode == 1
    assert "its tags are: " in done.stderr
    assert "temperature" in done.stderr


def test_up_twice_and_down_twice_say_so(system: System) -> None:
    """A second `twin up` in the same folder is refused; `twin down` in an empty one says that nothing ran."""
    second = system.twin("up")
    assert second.returncode == 1
    assert "already up" in second.stderr
    nothing = twin("down", "--run-dir", str(system.run_dir / "other"))
    assert nothing.returncode == 0
    assert "nothing was running" in nothing.stdout.replace("\n", " ")


def test_check_reports_every_problem_and_exits_with_ex_config(tmp_path: Path) -> None:
    """`twin check` prints all problems of a file, one line each, and exits with 78."""
    file = tmp_path / "plant.toml"
    file.write_text('[kafka]\npartitons = 3\n[assets."R*"]\nmodel = "magic"\n', "utf-8")
    done = twin("check", str(file))
    assert done.returncode == 78
    assert len(done.stderr.strip().splitlines()) == 2


def test_browse_lists_the_plants_variables_and_writes_a_tag_file(system: System, tmp_path: Path) -> None:
    """`twin browse` finds PV and SV nodes of a running server by the default pattern."""
    settings = {"TWIN_RUN_DIR": str(system.run_dir), "TWIN_CONFIG": str(system.config)}
    plant = subprocess.Popen(
        [sys.executable, "-m", "cli.main", "plant", "run", "--no-faults", "--reactors", "1"],
        env={**os.environ, **settings},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        while True:
            done = system.twin("browse", system.env["OPCUA_URL"], "--write", str(tmp_path / "tags.toml"))
            if done.returncode == 0 or time.monotonic() > deadline:
                break
            time.sleep(1)
    finally:
        plant.terminate()
        plant.wait(30)
    assert done.returncode == 0, done.stderr
    assert "5 variables, 5 match opcua.discover" in done.stdout.replace("\n", " ")
    assert "flow_rate.sv" in (tmp_path / "tags.toml").read_text("utf-8")
