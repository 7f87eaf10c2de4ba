"""What the twin stage needs to know of an asset's model and of each tag, as arrays for jitted loops.

May not know: where settings come from.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels import alerts
from kernels.consistency import mean_bounds
from kernels.estimation_params import SET_POINT, TABLES_MAX, noise_of
from kernels.models import MODELS
from kernels.models.model import NO_INPUT, Model
from kernels.stage import Settings
from kernels.units import unit_of

Floats = NDArray[np.float64]
I64 = NDArray[np.int64]

#: The name of the model of an asset that has none.
NO_MODEL = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class TagTable:
    """What the tags of a frame are to the twin, one row per tag.

    `entry`, `rank`: model input and rank as in `Model.input_of`. `observed`: number of the observed state, −1 for none.
    Value in the input's unit = `factor` · value + `offset`, kept in `low`…`high`. `nis`: (tags, alerts.LIMITS).
    """

    entry: I64
    rank: I64
    observed: I64
    factor: Floats
    offset: Floats
    low: Floats
    high: Floats
    nis: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AssetModel:
    """An asset's model with its parameters in an array; `model` is None where the asset has none.

    `observed`: (input, state) of what is measured of the model's states.
    """

    model: Model | None
    parameters: Floats
    states: Floats
    inputs: Floats
    observed: tuple[tuple[int, int], ...]
    input_tags: Mapping[str, str]
    horizon_s: float

    @property
    def name(self) -> str:
        """Name of the model."""
        return NO_MODEL if self.model is None else self.model.name


class TwinParams:
    """Settings of the twin stage. Raises ParameterError, when an asset first appears, for settings no model takes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._models: dict[str, AssetModel] = {}
        self._tables: dict[tuple[str, tuple[str, ...], tuple[str, ...]], TagTable] = {}
        twin = settings.twin
        self.windows_ns: I64 = np.array([round(w * 1e9) for w in twin["windows_s"]], np.int64)
        self.quality_window = int(twin["quality_window"])
        limit = twin["residual_limit"]
        self.residual_limit = math.nan if limit is None else float(limit)
        self.residual_ns = round(twin["residual_s"] * 1e9)

    def model(self, asset: str) -> AssetModel:
        """The model of an asset."""
        found = self._models.get(asset)
        if found is None:
            found = self._models[asset] = asset_model(self._settings.asset(asset))
        return found

    def table(self, asset: str, tags: tuple[str, ...], units: tuple[str, ...]) -> TagTable:
        """What tags with readings in these units are to an asset's twin."""
        key = (asset, tags, units)
        found = self._tables.get(key)
        if found is None:
            if len(self._tables) >= TABLES_MAX:
                self._tables.clear()
            found = self._tables[key] = self._table(asset, tags, units)
        return found

    def _table(self, asset: str, tags: tuple[str, ...], units: tuple[str, ...]) -> TagTable:
        model = self.model(asset)
        settings = [self._settings.tag(asset, tag) for tag in tags]
        spelled = [unit or s["unit"] or "" for unit, s in zip(units, settings, strict=True)]
        rows = [_input(model, tag, unit) for tag, unit in zip(tags, spelled, strict=True)]
        nis = [_nis(s, tag, unit) for s, tag, unit in zip(settings, tags, spelled, strict=True)]
        whole = np.array([row[:3] for row in rows], np.int64).reshape(-1, 3).T.copy()
        real = np.array([row[3:] for row in rows], np.float64).reshape(-1, 4).T.copy()
        return TagTable(
            entry=whole[0],
            rank=whole[1],
            observed=whole[2],
            factor=real[0],
            offset=real[1],
            low=real[2],
            high=real[3],
            nis=np.array(nis, np.float64).reshape(-1, alerts.LIMITS),
        )


def asset_model(settings: Mapping[str, Any]) -> AssetModel:
    """The model that an asset's settings (keys of `runtime.config.Asset`) name. Raises ParameterError."""
    model = MODELS.get(settings["model"])
    x, u, p = np.empty(0), np.empty((2, 0)), np.empty(0)
    observed: tuple[tuple[int, int], ...] = ()
    if model is not None:
        values = model.values(settings["parameters"])
        model.input_of("", settings["inputs"])
        x, u = model.start(values)
        p, observed = np.array(list(values.values())), model.observed()
    return AssetModel(
        model=model,
        parameters=p,
        states=x,
        inputs=u,
        observed=observed,
        input_tags=settings["inputs"],
        horizon_s=float(settings["horizon_s"]),
    )


def _input(asset: AssetModel, tag: str, unit: str) -> tuple[float, ...]:
    """A tag's entry, rank, observed, factor, offset, low, high. A unit that cannot be converted makes it no input."""
    nothing = (NO_INPUT, 0, -1, 1.0, 0.0, -math.inf, math.inf)
    if asset.model is None:
        return nothing
    entry, rank = asset.model.input_of(tag, asset.input_tags)
    if entry == NO_INPUT:
        return nothing
    declared = asset.model.inputs[entry]
    source, target = unit_of(unit), unit_of(declared.unit)
    if source is None or target is None or source.kind != target.kind:
        return nothing
    number = next((o for o, (i, _) in enumerate(asset.observed) if i == entry), -1)
    factor, offset = source.factor / target.factor, (source.offset - target.offset) / target.factor
    return entry, rank, number, factor, offset, *declared.span


def _nis(settings: Mapping[str, Any], tag: str, unit: str) -> tuple[float, float, float]:
    """Window and bounds of the consistency test; off where nobody has said what the noise is."""
    if tag.endswith(SET_POINT) or noise_of(settings, tag, unit) is None:
        return 0.0, math.nan, math.nan
    tests = settings["estimation"]
    return float(tests["nis_window"]), *mean_bounds(tests["nis_window"], tests["nis_confidence"])
