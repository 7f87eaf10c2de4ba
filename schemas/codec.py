"""Bytes on the wire: Avro single-object encoding of every type in this folder.

A record is C3 01, the 8-byte CRC-64-AVRO fingerprint of the writer's schema, then the Avro body (Avro 1.12,
"Single-object encoding"). `avsc/` holds every version ever written as `<name>.v<n>.avsc`, so any record can be read
without a registry; the highest version of a name is the one written. Every other version is resolved to that one.
A version to come is `<name>.v<n>.next.avsc`: read, but not written yet. A release that has it so must run everywhere
before one that writes it does; then old and new processes read each other during a roll-out and after a rollback.

Nothing but `DecodeError` leaves `decode`: fastavro raises IndexError for a truncated record, ignores trailing bytes
and takes negative lengths, so the end position and every column are checked here. A large record is weighed first
(`schemas/weight.py`). Avro has no checksum: a flipped bit inside a number is another number. Kafka's own checksum,
made by the producer and checked by broker and reader (`check.crcs`), is what protects a record on its way and on disk.
"""

import io
import json
import re
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast

import fastavro
import numpy as np

from schemas.frames import Column, EstimateFrame, Frame, Gap, Identity, ValidatedFrame, columns_of
from schemas.records import Alert, Rejected, TwinState, Variable, Window
from schemas.states import StageState
from schemas.weight import UNWEIGHED_BYTES, Absurd, Walk

MARKER = b"\xc3\x01"
HEADER_BYTES = 10
FOLDER = Path(__file__).parent / "avsc"

NAN = float("nan")

Record = Frame | Rejected | Alert | TwinState | StageState
T = TypeVar("T")

FRAME_TYPES: dict[str, type[Frame]] = {t.schema: t for t in (Frame, ValidatedFrame, EstimateFrame)}
_SUFFIX = {"<u2": "u16", "<i8": "i64", "<f8": "f64", "<u4": "u32", "|u1": "u8"}


class DecodeError(ValueError):
    """Bytes that are no record of ours. The message names what is wrong and what is allowed."""


class Version(NamedTuple):
    """One schema as it was written at some time, or will be. `newest`: the one that is written now."""

    name: str
    number: int
    fingerprint: bytes
    parsed: Any
    newest: bool


def encode(record: Record) -> bytes:
    """Bytes of a record, written with the newest version of its schema."""
    version = _written()[record.schema]
    out = io.BytesIO()
    out.write(MARKER)
    out.write(version.fingerprint)
    fastavro.schemaless_writer(out, version.parsed, _TO_AVRO[record.schema](record))
    return out.getvalue()


def decode(data: bytes) -> Record:
    """The record in `data`, of whichever schema its fingerprint names. Raises DecodeError."""
    version = version_of(data)
    plain = _body(data, version, None if version.newest else _written()[version.name].parsed)
    try:
        return cast(Record, _FROM_AVRO[version.name](plain))
    except DecodeError:
        raise
    except (ValueError, TypeError, KeyError, OverflowError, MemoryError) as error:
        raise DecodeError(f"{version.name} v{version.number}: {error}") from error


def decode_as(data: bytes, expected: type[T]) -> T:
    """Like `decode`, for a topic that holds only one type. Raises DecodeError for any other type."""
    record = decode(data)
    if type(record) is not expected:
        raise DecodeError(f"record is a {type(record).__name__}, allowed here is {expected.__name__}")
    return record


def as_written_now(data: bytes) -> bytes:
    """The same record as this release writes it: other bytes only where another version of its schema wrote it.

    Raises DecodeError.
    """
    return data if version_of(data).newest else encode(decode(data))


def identity_of(data: bytes, expected: type[Frame | TwinState]) -> Identity:
    """The identity of the frame or twin state in `data`, without building it: a third of the time of `decode_as`.

    The whole body is walked over, so a record that is cut short or too long is found; what columns hold is not looked
    at. Raises DecodeError.
    """
    version = version_of(data)
    if version.name != expected.schema:
        raise DecodeError(f"record is a {version.name}, allowed here is {expected.schema}")
    # fastavro skips beyond the end without a word; with a byte behind the record that ends elsewhere than it must.
    return Identity(**_body(data, version, _identity_reader(version.parsed["name"]), behind=b"\0"))


def _body(data: bytes, version: Version, reader: Any, behind: bytes = b"") -> Any:
    """What the reader's schema (None: the writer's) makes of the bytes after the header, `behind` put behind them.

    Raises DecodeError.
    """
    if len(data) > UNWEIGHED_BYTES:
        try:
            Walk(data, HEADER_BYTES).over(version.parsed)
        except Absurd as error:
            raise DecodeError(f"{version.name} v{version.number}: {error}") from error
    body = io.BytesIO(data + behind)
    body.seek(HEADER_BYTES)
    try:
        plain: Any = fastavro.schemaless_reader(body, version.parsed, reader)
    except Exception as error:  # fastavro raises whatever its parser stumbles over
        raise DecodeError(f"{version.name} v{version.number}: body is cut short or damaged ({error!r})") from error
    if body.tell() != len(data):
        raise DecodeError(
            f"{version.name} v{version.number}: {len(data) - body.tell()} bytes after the end, allowed is 0"
        )
    return plain


def version_of(data: bytes) -> Version:
    """Which schema wrote these bytes. Raises DecodeError where the header or the fingerprint is unknown."""
    if len(data) < HEADER_BYTES or data[:2] != MARKER:
        raise DecodeError(f"header is {data[:HEADER_BYTES].hex()!r}, allowed is c301 and a fingerprint of 8 bytes")
    found = _by_fingerprint().get(data[2:HEADER_BYTES])
    if found is None:
        known = ", ".join(f"{v.fingerprint.hex()} ({v.name} v{v.number})" for v in versions())
        raise DecodeError(f"fingerprint {data[2:HEADER_BYTES].hex()} is unknown, known are {known}")
    return found


@cache
def versions() -> tuple[Version, ...]:
    """Every schema version in the folder, by name and number."""
    return versions_in(FOLDER)


def versions_in(folder: Path) -> tuple[Version, ...]:
    """Every schema version in a folder, by name and number. Raises ValueError for a file that is none."""
    found = []
    last: dict[str, int] = {}
    for path in sorted(folder.glob("*.avsc")):
        match = re.fullmatch(r"(\w+)\.v(\d+)(\.next)?\.avsc", path.name)
        if match is None:
            raise ValueError(f"{path.name}: allowed is <name>.v<number>.avsc or <name>.v<number>.next.avsc")
        schema = json.loads(path.read_text("utf-8"))
        parsed = fastavro.parse_schema(schema)
        canonical = fastavro.schema.to_parsing_canonical_form(schema)
        fingerprint = bytes.fromhex(fastavro.schema.fingerprint(canonical, "CRC-64-AVRO"))
        found.append((schema["name"], int(match[2]), fingerprint, parsed))
        if match[3] is None:
            last[schema["name"]] = max(int(match[2]), last.get(schema["name"], 0))
    return tuple(sorted((Version(*row, newest=row[1] == last.get(row[0])) for row in found), key=lambda v: v[:2]))


@cache
def _by_fingerprint() -> dict[bytes, Version]:
    return {v.fingerprint: v for v in versions()}


@cache
def _written() -> dict[str, Version]:
    return {v.name: v for v in versions() if v.newest}


@cache
def _identity_reader(name: str) -> Any:
    """A reader's schema that wants nothing but the identity of a record of this full name."""
    kinds = {"asset": "string", "source": "string", "epoch": "long", "seq": "long"}
    wanted = [{"name": field, "type": kind} for field, kind in kinds.items()]
    return fastavro.parse_schema({"type": "record", "name": name, "fields": wanted})


@cache
def _avro_columns(frame_type: Any) -> tuple[tuple[str, str, np.dtype[Any]], ...]:
    """(attribute, Avro field, element type) per column: `value` is `value_f64` on the wire."""
    return tuple((name, f"{name}_{_SUFFIX[dtype.str]}", dtype) for name, dtype in columns_of(frame_type).items())


@cache
def _plain_fields(frame_type: Any) -> tuple[str, ...]:
    special = {"texts", "gap", *columns_of(frame_type)}
    return tuple(f.name for f in fields(frame_type) if f.name not in special)


def _frame_to_avro(frame: Frame) -> dict[str, Any]:
    kind: Any = type(frame)
    plain = {name: getattr(frame, name) for name in _plain_fields(kind)}
    plain["texts"] = [{"row": row, "text": text} for row, text in frame.texts.items()]
    plain["gap"] = None if frame.gap is None else _shallow(frame.gap)
    for name, avro_name, _ in _avro_columns(kind):
        plain[avro_name] = getattr(frame, name).tobytes()
    return plain


def _frame_from_avro(frame_type: Any, plain: dict[str, Any]) -> Frame:
    values = {name: plain[name] for name in _plain_fields(frame_type)}
    values["tags"], values["units"] = tuple(plain["tags"]), tuple(plain["units"])
    values["texts"] = {text["row"]: text["text"] for text in plain["texts"]}
    values["gap"] = None if plain["gap"] is None else Gap(**plain["gap"])
    for name, avro_name, dtype in _avro_columns(frame_type):
        values[name] = _column(avro_name, plain[avro_name], dtype)
    return cast(Frame, frame_type(**values))


def _column(name: str, data: bytes, dtype: np.dtype[Any]) -> Column:
    if len(data) % dtype.itemsize:
        raise DecodeError(f"column {name}: {len(data)} bytes, allowed is a multiple of {dtype.itemsize}")
    return np.frombuffer(data, dtype)


@cache
def _element_type(name: str, text: str) -> np.dtype[Any]:
    """The element type of a state's column; numpy would take (and stumble over) far more than what states hold."""
    if not re.fullmatch(r"[<|]([biuf][1248]|U[1-9]\d{0,3})", text, re.ASCII):
        raise DecodeError(f"column {name}: element type {text[:40]!r}, allowed are numbers, booleans and texts")
    return np.dtype(text)


def _state_to_avro(state: StageState) -> dict[str, Any]:
    return {
        "stage": state.stage,
        "asset": state.asset,
        "applied": [{"source": s, "epoch": e, "seq": q} for (s, e), q in state.applied.items()],
        "tags": state.tags,
        "columns": [
            {"name": name, "dtype": array.dtype.str, "shape": array.shape, "data": array.tobytes()}
            for name, array in state.columns.items()
        ],
    }


def _state_from_avro(plain: dict[str, Any]) -> StageState:
    columns = {
        c["name"]: _column(c["name"], c["data"], _element_type(c["name"], c["dtype"])).reshape(c["shape"])
        for c in plain["columns"]
    }
    return StageState(
        stage=plain["stage"],
        asset=plain["asset"],
        applied={(a["source"], a["epoch"]): a["seq"] for a in plain["applied"]},
        tags=tuple(plain["tags"]),
        columns=columns,
    )


def _shallow(record: Any) -> dict[str, Any]:
    """A record of plain fields as a mapping; `dataclasses.asdict` copies every value and takes ten times as long."""
    record_type: Any = type(record)
    return {name: getattr(record, name) for name in _names(record_type)}


@cache
def _names(record_type: Any) -> tuple[str, ...]:
    return tuple(f.name for f in fields(record_type))


def _twin_to_avro(state: TwinState) -> dict[str, Any]:
    plain = _shallow(state)
    plain["variables"] = {name: _variable_to_avro(variable) for name, variable in state.variables.items()}
    plain["windows"] = [_shallow(window) for window in state.windows]
    plain["alerts"] = [_shallow(alert) for alert in state.alerts]
    return plain


def _variable_to_avro(v: Variable) -> dict[str, Any]:
    """Unknown numbers are NaN: a union with null costs fastavro ten times a double, and an asset may have many tags."""
    fit = None
    if not (v.residual is None and v.rmse is None and v.mae is None and v.r2 is None):
        fit = {"residual": _known(v.residual), "rmse": _known(v.rmse), "mae": _known(v.mae), "r2": _known(v.r2)}
    return {
        "value": _known(v.value),
        "rate": _known(v.rate),
        "std": _known(v.std),
        "age_s": _known(v.age_s),
        "flag": v.flag,
        "unit": v.unit,
        "fit": fit,
    }


def _variable_from_avro(plain: dict[str, Any]) -> Variable:
    for numbers in (plain, plain["fit"] or {}):
        for name, value in numbers.items():
            if value != value:  # noqa: PLR0124  # NaN; isnan does not take the texts among them
                numbers[name] = None
    fit = plain.pop("fit")
    return Variable(**plain, **fit) if fit else Variable(**plain)


def _known(value: float | None) -> float:
    return NAN if value is None else value


def _twin_from_avro(plain: dict[str, Any]) -> TwinState:
    return TwinState(
        **{
            **plain,
            "variables": {name: _variable_from_avro(v) for name, v in plain["variables"].items()},
            "windows": tuple(Window(**w) for w in plain["windows"]),
            "alerts": tuple(Alert(**a) for a in plain["alerts"]),
        }
    )


_TO_AVRO: dict[str, Any] = {
    **dict.fromkeys(FRAME_TYPES, _frame_to_avro),
    StageState.schema: _state_to_avro,
    TwinState.schema: _twin_to_avro,
    Alert.schema: _shallow,
    Rejected.schema: _shallow,
}

_FROM_AVRO: dict[str, Any] = {
    **{name: lambda plain, t=frame_type: _frame_from_avro(t, plain) for name, frame_type in FRAME_TYPES.items()},
    StageState.schema: _state_from_avro,
    TwinState.schema: _twin_from_avro,
    Alert.schema: lambda plain: Alert(**plain),
    Rejected.schema: lambda plain: Rejected(**plain),
}
