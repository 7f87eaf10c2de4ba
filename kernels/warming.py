"""Compiles every stage's loops before a process takes work, so that no record waits for a compiler.

The first process on a machine compiles for some seconds and leaves the result on disk; later ones load it.
"""

from typing import Any

import numpy as np

from kernels.stage import Settings
from schemas.frames import Frame

ASSET = "warm-up"


def warm_up(settings: Settings) -> None:
    """Folds two readings of an asset that does not exist through all stages. Call it before joining a group."""
    from kernels.stages import STAGES  # here, so that importing a part of this folder does not import all

    frame: Any = _frame()
    for entry in STAGES.values():
        _, frame, _ = entry.stage.step(entry.stage.initial(ASSET), frame, entry.params_from(settings))


def _frame() -> Frame:
    zeros = np.zeros(2, "<i8")
    return Frame(
        asset=ASSET,
        source=ASSET,
        epoch=0,
        seq=0,
        time_ns=0,
        tags=("temperature",),
        units=("degC",),
        tag=np.zeros(2, "<u2"),
        source_time_ns=np.array([0, 1_000_000_000], "<i8"),
        server_time_ns=zeros,
        arrival_time_ns=zeros,
        value=np.array([85.0, 85.1]),
        status=np.zeros(2, "<u4"),
        mark=np.zeros(2, "u1"),
    )
