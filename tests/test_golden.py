"""Golden folders: readings in, what a stage must make of them. A new incident is a new folder.

`tests/golden/<stage>_<case>/` holds `input.jsonl` (a raw frame per line), `params.toml` (a plant.toml; its first
comment is the sentence the case proves), `expected.jsonl` (an output per line) and `expected_rejects.jsonl`. The input
goes through all stages up to the one that the folder names. An expected line need only name what matters: what it names
must be equal (numbers to 1e-9), and lists must be as long.

Times in the files, where a key ends in `_s`, are seconds since 2025-10-26T10:30:00Z.
"""

import json
import math
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from kernels.stage import Settings
from kernels.stages import STAGES
from runtime.config import Plant
from runtime.load import load
from schemas.frames import EstimateFrame, Frame, Gap, ValidatedFrame
from schemas.quality import Flag, Mark, Test

GOLDEN = Path(__file__).parent / "golden"
T0 = 1_761_474_600_000_000_000  # 2025-10-26T10:30:00Z
STATUS = {"good": 0, "uncertain": 0x40000000, "bad": 0x80000000}
COLUMNS = ("estimate", "rate", "std", "innovation", "nis")


def ns(seconds: float) -> int:
    """A time of the files in ns since 1970; exact to the microsecond."""
    return T0 + round(seconds * 1e6) * 1000


def raw_frame(line: dict[str, Any]) -> Frame:
    """A raw frame from a line of `input.jsonl`."""
    readings = [{"unit": "", "status": "good", "text": None, **r} for r in line.get("readings", ())]
    names = list(dict.fromkeys((r["tag"], r["unit"]) for r in readings))
    gap = line.get("gap")
    return Frame(
        asset=line.get("asset", "R101"),
        source=line.get("source", "mqtt-1"),
        epoch=line.get("epoch", 1),
        seq=line["seq"],
        kind=line.get("kind", "readings"),
        time_ns=ns(line.get("time_s", 0)),
        gap=gap and Gap(from_ns=ns(gap["from_s"]), to_ns=ns(gap["to_s"]), cause=gap["cause"]),
        tags=tuple(tag for tag, _ in names),
        units=tuple(unit for _, unit in names),
        tag=np.array([names.index((r["tag"], r["unit"])) for r in readings], "<u2"),
        source_time_ns=np.array([ns(r["source_s"]) for r in readings], "<i8"),
        server_time_ns=np.zeros(len(readings), "<i8"),
        arrival_time_ns=np.array([ns(r.get("arrival_s", r["source_s"])) for r in readings], "<i8"),
        value=np.array([math.nan if r["text"] is not None else r["value"] for r in readings], "<f8"),
        status=np.array([STATUS[r["status"]] for r in readings], "<u4"),
        mark=np.array([0 if r["text"] is None else Mark.TEXT for r in readings], "u1"),
        texts={i: r["text"] for i, r in enumerate(readings) if r["text"] is not None},
    )


def readable(out: Any) -> Any:
    """An output as a golden file writes it."""
    if isinstance(out, ValidatedFrame):
        head = {"seq": out.seq, "kind": out.kind, "repeated": out.repeated}
        return {**head, "readings": [row(out, i) for i in range(len(out))]}
    return asdict(out) if is_dataclass(out) and not isinstance(out, type) else out


def row(frame: ValidatedFrame, i: int) -> dict[str, Any]:
    """One row of a frame, with names for flags, tests and marks."""
    value = float(frame.value[i])
    columns = COLUMNS if isinstance(frame, EstimateFrame) else ()
    return {
        "tag": frame.tags[frame.tag[i]],
        "unit": frame.units[frame.tag[i]],
        "source_s": (int(frame.source_time_ns[i]) - T0) / 1e9,
        "value": value if math.isfinite(value) else None,
        "text": frame.texts.get(i),
        "flag": Flag(int(frame.flag[i])).name,
        "tests": [test.name for test in Test(int(frame.tests[i]))],
        "marks": [mark.name for mark in Mark(int(frame.mark[i]))],
        "ordinal": int(frame.ordinal[i]),
        **{name: finite(getattr(frame, name)[i]) for name in columns},
    }


def finite(number: Any) -> float | None:
    """A number, None for NaN."""
    return float(number) if math.isfinite(number) else None


def differences(expected: Any, actual: Any, where: str = "") -> list[str]:
    """Where the actual output is not what was expected; keys that the expectation does not name are free."""
    if isinstance(expected, dict) and isinstance(actual, dict):
        missing = [f"{where}.{key}: is not there" for key in expected.keys() - actual.keys()]
        return missing + [
            d
            for key in expected.keys() & actual.keys()
            for d in differences(expected[key], actual[key], f"{where}.{key}")
        ]
    if isinstance(expected, list) and isinstance(actual, list | tuple):
        if len(expected) != len(actual):
            return [f"{where}: {len(actual)} entries, expected {len(expected)}: {actual}"]
        pairs = enumerate(zip(expected, actual, strict=True))
        return [d for i, (e, a) in pairs for d in differences(e, a, f"{where}[{i}]")]
    if isinstance(expected, float) and isinstance(actual, float | int):
        equal = math.isclose(expected, actual, rel_tol=1e-9, abs_tol=1e-9)
        return [] if equal else [f"{where}: {actual}, expected {expected}"]
    return [] if expected == actual else [f"{where}: {actual!r}, expected {expected!r}"]


def lines(path: Path) -> list[Any]:
    """The lines of a JSON lines file."""
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def made(case: Path) -> tuple[list[Any], list[Any]]:
    """Outputs and rejects of the stage that the folder names."""
    plant: Plant = load(case / "params.toml")
    settings = Settings(
        tag=lambda asset, tag: plant.tag(asset, tag).model_dump(),
        asset=lambda asset: plant.asset(asset).model_dump(),
        twin=plant.twin.model_dump(),
    )
    frames: list[Any] = [raw_frame(line) for line in lines(case / "input.jsonl")]
    rejects: list[Any] = []
    for name, entry in STAGES.items():
        state, params = entry.stage.initial(frames[0].asset), entry.params_from(settings)
        outputs, rejects = [], []
        for frame in frames:
            state, out, rejected = entry.stage.step(state, frame, params)
            outputs += [out] if out is not None else []
            rejects += rejected
        frames = outputs
        if case.name.startswith(f"{name}_"):
            return [readable(out) for out in frames], [readable(r) for r in rejects]
    raise AssertionError(f"{case.name}: no stage of that name, there are {', '.join(STAGES)}")


@pytest.mark.parametrize("case", sorted(GOLDEN.iterdir()), ids=lambda case: case.name)
def test_golden(case: Path) -> None:
    """What comes out of the stage is what the folder says."""
    outputs, rejects = made(case)
    assert differences(lines(case / "expected.jsonl"), outputs) == []
    assert differences(lines(case / "expected_rejects.jsonl"), rejects) == []


def test_a_difference_is_seen() -> None:
    """The comparison finds another value, a missing key, another length; what is not named is free."""
    assert differences({"a": [1, {"b": 2.0}]}, {"a": [1, {"b": 2.0 + 1e-12, "c": 3}]}) == []
    assert differences({"a": 1}, {"a": 2}) == [".a: 2, expected 1"]
    assert differences({"a": 1.0}, {"a": None}) == [".a: None, expected 1.0"]
    assert differences({"a": 1}, {}) == [".a: is not there"]
    assert differences([1], [1, 2]) == [": 2 entries, expected 1: [1, 2]"]
