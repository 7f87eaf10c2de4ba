"""The table of stages, in the order data flows: what agents run, replay folds and the conformance tests go through."""

from collections.abc import Callable
from typing import Any, NamedTuple

from kernels import estimation, twin, validation
from kernels.estimation_params import EstimationParams
from kernels.stage import Settings, Stage
from kernels.twin_params import TwinParams
from kernels.validation_params import ValidationParams


class Entry(NamedTuple):
    """A stage, and how its params are made from the configuration."""

    stage: Stage[Any, Any, Any]
    params_from: Callable[[Settings], Any]


STAGES: dict[str, Entry] = {
    "validation": Entry(validation.STAGE, ValidationParams),
    "estimation": Entry(estimation.STAGE, EstimationParams),
    "twin": Entry(twin.STAGE, TwinParams),
}
