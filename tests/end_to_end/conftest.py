"""The whole system, started once per test file by `twin up` as a user would."""

from collections.abc import Iterator

import pytest

from tests.end_to_end.system_tools import ROOT, System, twin


@pytest.fixture(scope="module")
def system(tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Services, connectors and agents under the supervisor, with the configuration of the demo."""
    run_dir = tmp_path_factory.mktemp("system")
    config = ROOT / "plant" / "demo.toml"
    up = twin("up", "--run-dir", str(run_dir), "--config", str(config))
    try:
        assert up.returncode == 0, up.stderr
        printed = twin("env", "--run-dir", str(run_dir)).stdout
        yield System(run_dir, config, dict(line.split("=", 1) for line in printed.splitlines()))
    finally:
        twin("down", "--run-dir", str(run_dir))
