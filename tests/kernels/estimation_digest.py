"""Digest of everything estimation and twin make of one long random series. Run as a program it prints the digest."""

import hashlib
import math

import numpy as np

from kernels import estimation, twin
from kernels.estimation_params import EstimationParams
from kernels.twin_params import TwinParams
from schemas.codec import encode
from schemas.quality import Flag, Mark, Test
from tests.kernels.estimation_frames import R, cut, frame, settings


def _readings(n: int) -> list[R]:
    rng = np.random.default_rng(17)
    tags = [
        ("temperature", "degC", 85.0),
        ("pressure", "kPa", 2500.0),
        ("temperature_jacket", "degC", 70.0),
        ("level", "%", 60.0),
    ]
    kinds = [(Flag.GOOD, 0, 0)] * 12 + [
        (Flag.SUSPECT, Test.ZSCORE, 0),
        (Flag.SUSPECT, Test.LATE, 0),
        (Flag.FAIL, Test.RANGE, 0),
        (Flag.MISSING, Test.GAP, Mark.IMPUTED),
    ]
    readings = []
    for i in range(n):
        tag, unit, level = tags[i % 4]
        flag, tests, mark = kinds[rng.integers(len(kinds))]
        value = level * (1.0 + 0.01 * rng.normal()) if rng.random() > 0.01 else 1e308 * rng.normal()
        value = math.nan if mark else value
        readings.append(R(0.3 * i + 0.01 * rng.random(), value, tag, unit, flag, tests, mark))
    return readings


def digest(readings: int = 1200) -> str:
    """SHA-256 over all outputs and the last states, for both models."""
    total = hashlib.sha256()
    for model in ("batch_reactor", "cstr"):
        kept = settings(
            tags={
                "*": {"estimation": {"drift_threshold": 6.0}},
                "*/level": {"estimation": {"noise_model": "white_acceleration"}},
            },
            assets={"*": {"model": model}},
            twin={"windows_s": [1, 60], "quality_window": 50, "residual_s": 5.0, "residual_limit": 2.0},
        )
        filters, params = EstimationParams(kept), TwinParams(kept)
        estimated, state = estimation.initial("R101"), twin.initial("R101")
        for part in cut(frame(_readings(readings)), range(0, readings, 100)):
            estimated, out, _ = estimation.STAGE.step(estimated, part, filters)
            assert out is not None
            state, record, _ = twin.STAGE.step(state, out, params)
            assert record is not None
            total.update(encode(out) + encode(record))
        total.update(encode(estimated) + encode(state))
    return total.hexdigest()


if __name__ == "__main__":
    print(digest())
