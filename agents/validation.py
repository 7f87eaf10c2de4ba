"""The validation agent: raw frames to validated ones."""

from agents.fold import FailPoint, nothing
from agents.settings import kernel_settings
from agents.stage import run_stage
from kernels.stages import STAGES
from kernels.warming import warm_up
from runtime.config import Plant
from schemas.topics import RAW, VALIDATED


def run(plant: Plant, fail_point: FailPoint = nothing) -> int:
    """Validate until SIGTERM or SIGINT; return the exit code."""
    settings = kernel_settings(plant)
    warm_up(settings)
    stage, params_from = STAGES["validation"]
    return run_stage(
        plant,
        stage,
        source=RAW,
        outputs=lambda frame: [(VALIDATED, frame.asset.encode(), frame)],
        params=params_from(settings),
        fail_point=fail_point,
    )
