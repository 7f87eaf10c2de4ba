"""The record of a twin from its memory: a function of the state after the last event, of nothing else.

May not know: how the state came to be.
"""

import numpy as np

from kernels.models.model import NO_INPUT, Floats
from kernels.twin_params import AssetModel
from kernels.twin_quality import COUNT, ROW, figures
from kernels.twin_state import CLOCK_THEN, DELAY, NONE_NS, READINGS, TIME, Memory
from schemas.frames import EstimateFrame
from schemas.quality import Flag
from schemas.records import Alert, TwinState, Variable, Window

_LAST_NS = np.iinfo(np.int64).max
_NO_INPUT = np.array([NO_INPUT])
_NO_RANK = np.array([0])
_NO_VALUE = np.array([np.nan])


def event_time_ns(memory: Memory, clock_ns: int) -> int:
    """The twin's time when the arrival clock shows `clock_ns`; that clock itself before any reading moved the twin."""
    time_ns = int(memory.event[TIME])
    if time_ns == NONE_NS:
        return clock_ns
    return min(time_ns + max(0, clock_ns - int(memory.event[CLOCK_THEN])), _LAST_NS)


def record(
    memory: Memory, frame: EstimateFrame, asset: AssetModel, shut: tuple[Window, ...], raised: tuple[Alert, ...]
) -> TwinState:
    """The twin after a frame."""
    now_ns = event_time_ns(memory, memory.clock_ns)
    moved = memory.event[TIME] != NONE_NS
    passed_s = (now_ns - int(memory.event[TIME])) / 1e9 if moved else 0.0
    states, prediction = _states(memory, asset, passed_s) if moved else ({}, {})
    flags = memory.of_tags("flag")
    return TwinState(
        asset=frame.asset,
        source=frame.source,
        epoch=frame.epoch,
        seq=frame.seq,
        time_ns=now_ns,
        clock_ns=memory.clock_ns,
        model=asset.name,
        variables=_variables(memory, now_ns),
        model_states=states,
        prediction=prediction,
        horizon_s=asset.horizon_s,
        newest_age_s=passed_s if moved else None,
        coverage=float(np.count_nonzero(flags == Flag.GOOD) / len(flags)) if len(flags) else None,
        latency_ms=float(memory.event[DELAY] / 1e6) if moved else None,
        connections=dict(memory.sources),
        readings=int(memory.event[READINGS]),
        windows=shut,
        alerts=raised,
    )


def _states(memory: Memory, asset: AssetModel, passed_s: float) -> tuple[dict[str, float], dict[str, float]]:
    """The model's states now, and at the horizon from the present estimates with its inputs held."""
    if asset.model is None:
        return {}, {}
    x, u = memory.x.copy(), memory.u.copy()
    _coast(asset, x, u, passed_s)
    now = asset.model.named(x)
    for entry, state in asset.observed:
        if not np.isnan(u[0, entry]):
            x[state] = u[0, entry]
            u[0, entry] = np.nan
    _coast(asset, x, u, asset.horizon_s)
    return now, asset.model.named(x)


def _coast(asset: AssetModel, x: Floats, u: Floats, dt_s: float) -> None:
    """Lets time pass for the states, inputs held."""
    if asset.model is None or dt_s <= 0.0:
        return
    ranks, out = np.zeros(u.shape[1], np.int64), np.empty((1, len(x)))
    asset.model.fold(x, u, asset.parameters, ranks, np.array([dt_s]), _NO_INPUT, _NO_RANK, _NO_VALUE, _NO_VALUE, out)


def _variables(memory: Memory, now_ns: int) -> dict[str, Variable]:
    of_row = {row: o for o, row in enumerate(memory.score[:, ROW].tolist()) if row >= 0}
    estimates, used = memory.of_tags("estimate").tolist(), memory.of_tags("used_ns").tolist()
    flags, units = memory.of_tags("flag").tolist(), memory.units.tolist()
    variables = {}
    for row, tag in enumerate(memory.state.tags):
        if used[row] == NONE_NS:
            variables[tag] = Variable(flag=flags[row], unit=units[row])
            continue
        value, rate, std = estimates[row]
        residual, rmse, mae, r2 = _quality(memory, of_row[row]) if row in of_row else (None, None, None, None)
        variables[tag] = Variable(
            value=value,
            rate=rate,
            std=std,
            age_s=(now_ns - used[row]) / 1e9,
            residual=residual,
            rmse=rmse,
            mae=mae,
            r2=r2,
            flag=flags[row],
            unit=units[row],
        )
    return variables


def _quality(memory: Memory, observed: int) -> tuple[float | None, ...]:
    out = np.empty(3)
    figures(memory.pairs[observed], memory.score[observed, COUNT], out)
    numbers = (float(memory.residual[observed]), *out.tolist())
    return tuple(None if np.isnan(number) else number for number in numbers)
