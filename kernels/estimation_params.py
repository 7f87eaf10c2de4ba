"""Noise and limits of the Kalman filters as one row of numbers per tag, so that a jitted loop can read them.

May not know: where settings come from.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import kalman
from kernels.stage import Settings
from kernels.units import kind_of, unit_of

#: Typical measurement noise of a kind of variable, variance in the square of the kind's base unit: 0.7 K (the
#: chapter's reactor), 10 kPa, 1 L/min, 0.05 pH.
TYPICAL_NOISE = {"temperature": 0.5, "pressure": 1e8, "flow_rate": 1.0, "ph": 2.5e-3}
#: Where neither kind nor configuration says anything.
UNKNOWN_NOISE = 0.5
#: Process noise as a share of measurement noise (the chapter's 0.01 to 0.5): this alone decides how much is smoothed.
PROCESS_SHARE = 0.02
#: Variance at the start as a multiple of measurement noise (the chapter's 1 to 0.5).
INITIAL_SHARE = 2.0
#: Drift, in standard deviations of the innovation, that the drift test tolerates where only its threshold is set.
DRIFT_DELTA = 0.5
#: How the name of a tag ends that holds the set point of another.
SET_POINT = ".sv"

#: The cache of tables starts anew beyond this many: frames list their tags in changing orders.
TABLES_MAX = 4096


class EstimationParams:
    """Settings of all filters, from the settings of all tags (keys of `runtime.config.Tag`)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._tables: dict[tuple[str, tuple[str, ...], tuple[str, ...]], NDArray[np.float64]] = {}

    def table(self, asset: str, tags: tuple[str, ...], units: tuple[str, ...]) -> NDArray[np.float64]:
        """Settings for readings in these units, shape (tags, kalman.SETTINGS), read-only."""
        key = (asset, tags, units)
        found = self._tables.get(key)
        if found is None:
            if len(self._tables) >= TABLES_MAX:
                self._tables.clear()
            rows = [filter_settings(self._settings.tag(asset, t), t, u) for t, u in zip(tags, units, strict=True)]
            found = np.array(rows, np.float64).reshape(len(tags), kalman.SETTINGS)
            found.flags.writeable = False
            self._tables[key] = found
        return found


def noise_of(settings: Mapping[str, Any], tag: str, unit: str) -> float | None:
    """Variance of a reading's noise in `unit`²; None where neither configuration nor kind and unit tell."""
    stated = settings["estimation"]["measurement_noise"]
    if stated is not None:
        return float(stated) * square_scale(settings["unit"] or unit, unit)
    kind, target = settings["kind"] or kind_of(tag), unit_of(unit)
    if target is None or target.kind != kind:
        return None
    return TYPICAL_NOISE[kind] / target.factor**2


def filter_settings(settings: Mapping[str, Any], tag: str, unit: str) -> list[float]:
    """One tag's row in the order of `kernels.kalman`, for readings in `unit` (the configured one where empty).

    Configured variances are in the tag's configured unit, in the reading's where none is configured.
    """
    tests: Mapping[str, Any] = settings["estimation"]
    unit = unit or settings["unit"] or ""
    square = square_scale(settings["unit"] or unit, unit)
    noise = noise_of(settings, tag, unit)
    r = UNKNOWN_NOISE if noise is None else noise
    q, p, gate = tests["process_noise"], tests["initial_variance"], tests["gate_nis"]
    delta, threshold = tests["drift_delta"], tests["drift_threshold"]
    row = [math.nan] * kalman.SETTINGS
    row[kalman.Q] = PROCESS_SHARE * r if q is None else q * square
    row[kalman.R] = r
    row[kalman.WHITE] = float(tests["noise_model"] == "white_acceleration")
    row[kalman.DOUBT_FACTOR] = tests["suspect_factor"]
    row[kalman.INITIAL] = INITIAL_SHARE * r if p is None else p * square
    row[kalman.GATE] = math.nan if gate is None or noise is None else gate
    row[kalman.LIMIT] = tests["gate_limit"]
    row[kalman.DRIFT_DELTA] = DRIFT_DELTA if delta is None else delta
    row[kalman.DRIFT_THRESHOLD] = math.nan if threshold is None else threshold
    row[kalman.EXACT] = float(tag.endswith(SET_POINT))
    return row


def square_scale(source: str, target: str) -> float:
    """Factor of a variance from one unit to another; 1 where the units cannot be compared."""
    a, b = unit_of(source), unit_of(target)
    return 1.0 if a is None or b is None or a.kind != b.kind else (a.factor / b.factor) ** 2
