"""The estimation agent: validated frames to estimates."""

from agents.fold import FailPoint, nothing
from agents.settings import kernel_settings
from agents.stage import run_stage
from kernels.stages import STAGES
from kernels.warming import warm_up
from runtime.config import Plant
from schemas.topics import ESTIMATES, VALIDATED


def run(plant: Plant, fail_point: FailPoint = nothing) -> int:
    """Estimate until SIGTERM or SIGINT; return the exit code."""
    settings = kernel_settings(plant)
    warm_up(settings)
    stage, params_from = STAGES["estimation"]
    return run_stage(
        plant,
        stage,
        source=VALIDATED,
        outputs=lambda frame: [(ESTIMATES, frame.asset.encode(), frame)],
        params=params_from(settings),
        fail_point=fail_point,
    )
