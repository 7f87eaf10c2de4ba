"""What must hold for any bytes, as two plain functions: tests and fuzzers call them with bytes, a violation raises.

`check_payload` takes the payload of an MQTT message, `check_frame` a schema's number and the body of an Avro record.
What is accepted goes on through every stage that would get it, so that no number that is none reaches a filter.
"""

import math
import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from connectors.framer import TEXT_CHARS_MAX, Framer, Reading
from connectors.payload import TIME_NS_MAX, PayloadError, parse
from kernels.stages import STAGES
from runtime.config import Framing
from schemas.codec import HEADER_BYTES, MARKER, DecodeError, Record, decode, encode, versions
from schemas.frames import EstimateFrame, Frame, ValidatedFrame, columns_of
from schemas.quality import Mark
from schemas.records import Alert, TwinState
from store.line_protocol import UnstorableError, alert_line, reading_lines, window_line
from store.twin_lines import state_line
from tests.kernels.frame_strategies import EVERYTHING, settings_of

MEMORY_BYTES = 50_000_000
ARRIVAL_NS = 1_761_474_615_000_000_007
#: Columns of states that are a filter's or a model's memory: they must be finite whatever came.
FILTERS = {"validation": ("history", "last_value"), "estimation": ("filter",), "twin": ("model_states",)}
STAGE_OF: dict[type, str] = {Frame: "validation", ValidatedFrame: "estimation", EstimateFrame: "twin"}
PARAMS = {name: entry.params_from(settings_of(EVERYTHING)) for name, entry in STAGES.items()}


class Broken(AssertionError):
    """Something that must hold for any bytes does not."""


def must(holds: object, sentence: str) -> None:
    """Raise Broken unless it holds."""
    if not holds:
        raise Broken(sentence)


@contextmanager
def bounded_memory() -> Iterator[None]:
    """The process's largest memory may grow by no more than `MEMORY_BYTES`."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    must(grown <= MEMORY_BYTES, f"memory grew by {grown} bytes")


def check_payload(data: bytes) -> bool:
    """Readings that a frame can hold, or PayloadError; whether it was accepted."""
    try:
        with bounded_memory():
            readings, _ = parse(data, "R101", "temperature", ARRIVAL_NS)
    except PayloadError as error:
        must(str(error).isprintable() and len(str(error)) < 400, "a reason is one short printable line")
        return False
    must(readings, "an accepted payload has readings")
    for reading in readings:
        _check_reading(reading)
    framer = Framer("fuzz", 1, Framing())
    for reading in readings:
        framer.add(reading, ARRIVAL_NS)
    for raw, _ in framer.due(ARRIVAL_NS, flush=True):
        must(decode(encode(raw)) == raw, "what is written is read")
        frame: Any = raw
        for stage in STAGES:
            frame = through(stage, frame)
    return True


def _check_reading(reading: Reading) -> None:
    is_number = math.isfinite(reading.value)
    must(is_number == (reading.text is None) == (not reading.mark & Mark.TEXT), "a number, or a text that says why not")
    must(abs(reading.source_time_ns) <= TIME_NS_MAX, "a time that can be stored")
    must(len(reading.text or "") <= TEXT_CHARS_MAX and reading.unit.isprintable(), "texts are bounded")


def check_frame(data: bytes) -> bool:
    """`data` without its first byte as the body of the schema of that number: a record, or DecodeError."""
    if not data:
        return False
    version = versions()[data[0] % len(versions())]
    return check_record(MARKER + version.fingerprint + data[1:])


def check_record(data: bytes) -> bool:
    """A record that keeps its rules and can be used, or DecodeError; whether it was accepted."""
    try:
        with bounded_memory():
            record = decode(data)
    except DecodeError as error:
        must(str(error), "a reason is given")
        return False
    again = encode(record)
    must(encode(decode(again)) == again, "what is written is read")
    if isinstance(record, Frame):
        _check_columns(record)
        through(STAGE_OF[type(record)], record)
    _check_lines(record)
    return True


def _check_columns(frame: Frame) -> None:
    for name, dtype in columns_of(type(frame)).items():
        column = getattr(frame, name)
        must(column.dtype == dtype and column.shape == (len(frame),), f"column {name} is as long as the others")
    must(not len(frame) or frame.tag.max() < len(frame.tags) == len(frame.units), "every reading has a tag and a unit")
    must(all(0 <= row < len(frame) for row in frame.texts), "every text has its reading")


def through(stage: str, frame: Any) -> Any:
    """A frame twice through a stage, the second time as the next one: no exception, and every filter stays finite."""
    entry, state, out = STAGES[stage], STAGES[stage].stage.initial(frame.asset), None
    for _ in range(2):
        state, out, _ = entry.stage.step(state, frame, PARAMS[stage])
        for name in FILTERS[stage]:
            if name in state.columns:
                must(np.isfinite(state.columns[name]).all(), f"{stage}: {name} is finite")
        must(encode(decode(encode(state))) == encode(state), "a state survives its bytes")
        state = type(state)(stage=state.stage, asset=state.asset, tags=state.tags, columns=state.columns)
    must(out is not None, "one output per frame")
    must(encode(decode(encode(out))) == encode(out), "an output survives its bytes")
    _check_lines(out)
    return out


def _check_lines(record: Record | None) -> None:
    """Lines of the store, or a reason why there are none; no line holds what would be two."""
    makers: list[Callable[[], list[str]]] = []
    if isinstance(record, EstimateFrame):
        makers.append(lambda: reading_lines(record)[0])
    elif isinstance(record, TwinState):
        makers.append(lambda: [state_line(record)])
        makers += [lambda w=w: [window_line(record.asset, w)] for w in record.windows]  # type: ignore[misc]
    elif isinstance(record, Alert):
        makers.append(lambda: [alert_line(record)])
    for make in makers:
        try:
            lines = make()
        except UnstorableError:
            continue
        must(all(map(is_one_line, lines)), "a record makes one line each")


def is_one_line(line: str) -> bool:
    """Whether no newline stands outside a quoted text."""
    quoted = escaped = False
    for c in line:
        if c == "\n" and not quoted:
            return False
        quoted ^= c == '"' and not escaped
        escaped = c == "\\" and not escaped
    return True


def seeds(target: str) -> Iterator[bytes]:
    """Good inputs to start from."""
    if target == "payload":
        yield from PAYLOADS
        return
    numbers = {version.name: number for number, version in enumerate(versions()) if version.newest}
    for record in records():
        yield bytes([numbers[record.schema]]) + encode(record)[HEADER_BYTES:]


PAYLOADS = (
    b'{"value": 85.3, "unit": "degC", "timestamp": "2025-10-26T10:30:15Z"}',
    b'{"value": -0.0, "timestamp": 1761474615123456789}',
    b'[{"value": 1, "timestamp": 1761474615.123456789}, {"value": "Bad"}]',
    b'{"value": NaN, "timestamp": "20251026T103015,5+02:00"}',
    b'{"value": 1e999, "unit": null, "x": {"y": [1, true, null]}}',
    '{"value": "🔥 12,5", "val\\u0075": 1}'.encode(),
    b"85.3",
    b"-inf",
    b"+.5e-3",
)


def records() -> list[Record]:
    """A record of every schema that stages hand on, with something in every field."""
    n = 3
    frames: list[Record] = []
    for frame_type in (Frame, ValidatedFrame, EstimateFrame):
        columns = {name: np.ones(n, dtype) for name, dtype in columns_of(frame_type).items()}
        columns["tag"] = np.array([0, 1, 0], "<u2")
        columns["value"] = np.array([85.3, np.nan, -0.0])
        columns["source_time_ns"] = columns["arrival_time_ns"] = ARRIVAL_NS + np.arange(n, dtype="<i8")
        frames.append(
            frame_type(
                asset="R101", source="fuzz", epoch=1, seq=0, time_ns=ARRIVAL_NS, tags=("temperature", "level"),
                units=("degC", ""), texts={1: "Bad"}, **columns,
            )
        )  # fmt: skip
    twin = frames[0]
    for stage in STAGES:
        twin = through(stage, twin)
    alert = Alert(asset="R101", kind="gap", severity="info", time_ns=1, message="m", value=2.0)
    states = [
        STAGES[s].stage.step(STAGES[s].stage.initial("R101"), f, PARAMS[s])[0]
        for s, f in zip(STAGES, frames, strict=True)
    ]
    return [*frames, twin, alert, *states]
