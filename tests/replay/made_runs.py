"""Runs for the tests: series of readings folded through the kernels' stages and written as a replay writes them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from kernels.stage import Settings, fold
from kernels.stages import STAGES
from replay.results.tables import Folder
from replay.sources.raw import Raw
from runtime.config import Plant
from schemas.frames import EstimateFrame, Frame
from schemas.records import TwinState

START_NS = 1_700_000_000_000_000_000
SECOND_NS = 1_000_000_000

Floats = NDArray[np.float64]


def settings(tags: Mapping[str, Any] | None = None, assets: Mapping[str, Any] | None = None) -> Settings:
    """Settings as a plant file with these tables gives them; assets have no model unless they say so."""
    plant = Plant.model_validate({"tags": tags or {}, "assets": assets or {"*": {"model": "none"}}})
    return Settings(
        tag=lambda asset, tag: plant.tag(asset, tag).model_dump(),
        asset=lambda asset: plant.asset(asset).model_dump(),
        twin=plant.twin.model_dump(),
    )


def frames(asset: str, series: Mapping[str, Floats], *, step_s: float = 1.0, per_frame: int = 50,
           late_s: float = 0.25, units: Mapping[str, str] | None = None) -> list[Frame]:  # fmt: skip
    """Frames of series of equal length, one value per tag and step; each reading arrives `late_s` after its time."""
    tags, units = tuple(series), units or {}
    n = len(series[tags[0]])
    found = []
    for seq, first in enumerate(range(0, n, per_frame)):
        steps = np.arange(first, min(first + per_frame, n))
        time_ns = START_NS + np.rint(np.repeat(steps, len(tags)) * step_s * 1e9).astype("<i8")
        found.append(
            Frame(
                asset=asset, source="made-1", epoch=1, seq=seq, time_ns=int(time_ns[-1]), tags=tags,
                units=tuple(units.get(tag, "") for tag in tags),
                tag=np.tile(np.arange(len(tags)), len(steps)).astype("<u2"),
                source_time_ns=time_ns,
                server_time_ns=np.zeros(len(time_ns), "<i8"),
                arrival_time_ns=time_ns + round(late_s * 1e9),
                value=np.stack([series[tag][steps] for tag in tags], axis=1).ravel().astype("<f8"),
                status=np.zeros(len(time_ns), "<u4"),
                mark=np.zeros(len(time_ns), "u1"),
            )
        )  # fmt: skip
    return found


def write(folder: Path, by_asset: Mapping[str, Sequence[Frame]], chosen: Settings, **provenance: Any) -> Path:
    """Fold the stages over the frames of every asset and write the folder of a run."""
    for partition, (asset, raw) in enumerate(by_asset.items()):
        out = Folder(folder, partition)
        for estimates, state in results(asset, raw, chosen):
            out.readings(estimates, [Raw("made", partition, 0, b"", estimates)])
            out.state(state)
        out.close()
    (folder / "run.json").write_text(json.dumps({"name": folder.name, **provenance}), "utf-8")
    return folder


def results(asset: str, raw: Sequence[Frame], chosen: Settings) -> list[tuple[EstimateFrame, TwinState]]:
    """What estimation and twin make of each frame of an asset."""
    outputs: list[Any] = list(raw)
    kept: dict[str, list[Any]] = {}
    for name, entry in STAGES.items():
        stage = entry.stage
        outputs = [out for _, out, _ in fold(stage, stage.initial(asset), outputs, entry.params_from(chosen))]
        kept[name] = outputs
    return list(zip(kept["estimation"], kept["twin"], strict=True))
