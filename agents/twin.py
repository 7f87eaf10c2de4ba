"""The twin agent: estimates to the state of each asset's twin, and its alerts to a topic of their own as well."""

from collections.abc import Sequence

from agents.fold import FailPoint, nothing
from agents.settings import kernel_settings
from agents.stage import run_stage
from kernels.stages import STAGES
from kernels.warming import warm_up
from runtime.config import Plant
from schemas.codec import Record
from schemas.records import TwinState
from schemas.topics import ALERTS, ESTIMATES, STATE, Topic


def run(plant: Plant, fail_point: FailPoint = nothing) -> int:
    """Follow the assets until SIGTERM or SIGINT; return the exit code."""
    settings = kernel_settings(plant)
    warm_up(settings)
    stage, params_from = STAGES["twin"]
    params = params_from(settings)
    return run_stage(plant, stage, source=ESTIMATES, outputs=outputs, params=params, fail_point=fail_point)


def outputs(state: TwinState) -> Sequence[tuple[Topic, bytes, Record]]:
    """The state itself, and each alert it raised."""
    key = state.asset.encode()
    return [(STATE, key, state), *((ALERTS, key, alert) for alert in state.alerts)]
