"""A worker process for the tests: one stage over a prefix of topics, with fail points that only this process has.

usage: python -m tests.agents.stage_worker BOOTSTRAP PREFIX STAGE [partitions=N] [name=N] ...
Names are `partitions` and those in NUMBERS.
FAIL_POINT=<name>:<n> kills it with SIGKILL the n-th time the point is passed. PARAMS is given to the counting stage.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable

from agents.settings import kernel_settings
from agents.stage import run_stage
from kernels.stages import STAGES
from kernels.warming import warm_up
from runtime import logs
from runtime.config import Plant
from schemas.topics import RAW, VALIDATED
from tests.agents.counting import COUNTING

NUMBERS = ("checkpoint_s", "gather_s", "watchdog_s")


def fail_point() -> Callable[[str], None]:
    """What FAIL_POINT asks for."""
    wanted, _, times = os.environ.get("FAIL_POINT", "").partition(":")
    left = int(times or 0)

    def passed(name: str) -> None:
        nonlocal left
        if name == wanted:
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return passed


def main() -> int:
    """See the module's docstring."""
    bootstrap, prefix, stage, *rest = sys.argv[1:]
    logs.configure(f"{stage}-{os.getpid()}", logging.INFO)
    options = dict(part.split("=") for part in rest)
    plant = Plant.model_validate(
        {
            "kafka": {"bootstrap": bootstrap, "prefix": prefix, "partitions": int(options.get("partitions", "4"))},
            "agents": {"watchdog_s": 20} | {name: float(options[name]) for name in NUMBERS if name in options},
        }
    )
    pure, params = COUNTING, os.environ.get("PARAMS")
    if stage == "validation":
        settings = kernel_settings(plant)
        warm_up(settings)
        pure, params_from = STAGES[stage]
        params = params_from(settings)
    return run_stage(
        plant,
        pure,
        source=RAW,
        outputs=lambda out: [(VALIDATED, out.asset.encode(), out)],
        params=params,
        fail_point=fail_point(),
    )


if __name__ == "__main__":
    sys.exit(main())
