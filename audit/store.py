"""Reads back what InfluxDB holds, with nothing but its documented HTTP interface (InfluxQL, CSV)."""

import csv
import http.client
import io
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import NamedTuple

#: A text that came instead of a number may be long.
csv.field_size_limit(64 * 1024 * 1024)

_FIELDS = (
    "value",
    "reason",
    "unit",
    "quality",
    "tests",
    "mark",
    "status",
    "estimate",
    "rate",
    "std",
    "innovation",
    "nis",
    "arrival_ns",
    "server_ns",
    "source",
    "seq",
)
#: InfluxDB's range of times.
MIN_TIME_NS, MAX_TIME_NS = -(2**63) + 2, 2**63 - 2
#: What a tag of a point has instead of an empty text.
EMPTY_TAG = "none"
#: A statement that fails on the way leaves the rows that it had sent and no word in CSV, and no later one is executed.
#: So this one follows every query; where its table is missing, the rows before are not all.
_LAST, _LAST_TABLE = "SHOW DATABASES", ["name", "tags", "name"]
#: Columns of an answer that are no fields of the point.
_NO_FIELDS = frozenset({"name", "tags", "time", "reactor_id", "run"})

Fields = dict[str, str]  # name → what it reads; those that are there


class StoreError(RuntimeError):
    """InfluxDB does not answer, or not as expected."""


class Stored(NamedTuple):
    """One point of `reactor_sensor`. None: the field is not there."""

    time_ns: int
    value: float | None
    reason: str
    unit: str
    quality: int
    tests: int
    mark: int
    status: int
    estimate: float | None
    rate: float | None
    std: float | None
    innovation: float | None
    nis: float | None
    arrival_ns: int
    server_ns: int
    source: str
    seq: int


class AlertWords(NamedTuple):
    """What an alert of an asset says; an empty kind or tag is EMPTY_TAG."""

    kind: str
    tag: str
    severity: str
    message: str
    value: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where the points are. `token` needs to read the bucket only; `ca_file` is who signed the certificate, else one of
    those that the system trusts.
    """

    url: str
    bucket: str
    token: str
    timeout_s: float = 120.0
    ca_file: Path | None = None

    def readings(self, asset: str, tag: str, from_ns: int, to_ns: int) -> list[Stored]:
        """All whole points of a tag, by time, both ends included. Raises StoreError."""
        wanted = ", ".join(f'"{name}"' for name in _FIELDS)
        query = (
            f'SELECT {wanted} FROM "reactor_sensor" WHERE "reactor_id" = $asset AND "sensor_type" = $tag '
            "AND \"run\" = '' AND time >= $from AND time <= $to"  # what a replay wrote has the tag `run`
        )
        rows = self._rows(query, {"asset": asset, "tag": tag, "from": from_ns, "to": to_ns})
        # InfluxDB shows the fields of a point one by one while it stores them: without its quality it is not there yet.
        return [_stored(row) for row in rows if row["quality"]]

    def states(self, asset: str, from_ns: int, to_ns: int) -> dict[int, Fields]:
        """The points of an asset's twin by their time, both ends included. Raises StoreError."""
        query = (
            'SELECT * FROM "reactor_twin" '
            'WHERE "reactor_id" = $asset AND "run" = \'\' AND time >= $from AND time <= $to'
        )
        rows = self._rows(query, {"asset": asset, "from": from_ns, "to": to_ns})
        return {int(row["time"]): _fields(row) for row in rows}

    def windows(self, asset: str, tag: str, window: str, from_ns: int, to_ns: int) -> dict[int, Fields]:
        """The windows of one length of a tag by their time, both ends included. Raises StoreError."""
        query = (
            'SELECT "count", "mean", "min", "max" FROM "reactor_window" WHERE "reactor_id" = $asset '
            'AND "sensor_type" = $tag AND "window" = $window AND "run" = \'\' AND time >= $from AND time <= $to'
        )
        rows = self._rows(query, {"asset": asset, "tag": tag, "window": window, "from": from_ns, "to": to_ns})
        return {int(row["time"]): _fields(row) for row in rows}

    def alerts(self, asset: str, from_ns: int, to_ns: int) -> list[tuple[int, AlertWords]]:
        """Time and words of an asset's alerts, both ends included. Raises StoreError."""
        query = (
            'SELECT "kind", "sensor_type", "severity", "message", "value" FROM "reactor_alert" '
            'WHERE "reactor_id" = $asset AND "run" = \'\' AND time >= $from AND time <= $to'
        )
        return [
            (
                int(row["time"]),
                AlertWords(
                    kind=row["kind"],
                    tag=row["sensor_type"],
                    severity=row["severity"],
                    message=row["message"],
                    value=float(row["value"]) if row["value"] else None,
                ),
            )
            for row in self._rows(query, {"asset": asset, "from": from_ns, "to": to_ns})
        ]

    def stored_times(self, asset: str, since_ns: int) -> dict[tuple[str, int], list[int]]:
        """When the readings of a frame were confirmed, ns since 1970, by (source, seq); several where a connector
        was started again.
        """
        query = (
            'SELECT "source", "seq", "stored_ns" FROM "reactor_frame" '
            'WHERE "reactor_id" = $asset AND "stored_ns" >= $since'
        )
        found: dict[tuple[str, int], list[int]] = {}
        for row in self._rows(query, {"asset": asset, "since": since_ns}):
            found.setdefault((row["source"], int(row["seq"])), []).append(int(row["stored_ns"]))
        return found

    def _rows(self, query: str, parameters: dict[str, str | int]) -> Iterator[dict[str, str]]:
        names, rows = self._table(query, parameters)
        return (dict(zip(names, row, strict=True)) for row in rows)

    def _table(self, query: str, parameters: dict[str, str | int]) -> tuple[list[str], list[list[str]]]:
        """Names of the columns, and the rows; of an answer that came whole. Raises StoreError."""
        text = self._answer(query, parameters)
        try:
            table = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        except csv.Error as error:
            raise StoreError(f"InfluxDB: its answer is no CSV: {error}") from error
        if _LAST_TABLE not in table:
            raise StoreError(
                f"InfluxDB at {self.url}: its answer has no end; either it failed on the way, or there is no bucket "
                f"{self.bucket!r} that this token may read"
            )
        names, *rows = table[: table.index(_LAST_TABLE)] or [[]]
        if odd := next((row for row in rows if len(row) != len(names)), None):
            raise StoreError(f"InfluxDB: a row of its answer has {len(odd)} cells instead of {len(names)}: {odd[:5]}")
        return names, rows

    def _answer(self, query: str, parameters: dict[str, str | int]) -> str:
        form = {"db": self.bucket, "epoch": "ns", "q": f"{query}; {_LAST}", "params": json.dumps(parameters)}
        headers = {"Authorization": f"Token {self.token}", "Accept": "application/csv"}
        request = urllib.request.Request(f"{self.url}/query", urllib.parse.urlencode(form).encode(), headers)
        try:
            try:
                with _opener(self.ca_file).open(request, timeout=self.timeout_s) as answer:
                    text: str = answer.read().decode()
            except urllib.error.HTTPError as error:
                words = error.read()[:300].decode("utf-8", "replace")
                raise StoreError(f"InfluxDB {error.code}: {words}") from error
        except (OSError, http.client.HTTPException, UnicodeDecodeError) as error:
            raise StoreError(f"InfluxDB at {self.url} does not answer, or not to the end: {error}") from error
        if text and not text.endswith("\n"):
            raise StoreError(f"InfluxDB at {self.url}: its answer is cut off")
        return text


@cache
def _opener(ca_file: Path | None) -> urllib.request.OpenerDirector:
    """Made once: reading whom the system trusts takes longer than most questions."""
    trusted = ssl.create_default_context(cafile=ca_file)
    return urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted))


def _stored(row: dict[str, str]) -> Stored:
    def number(name: str) -> float | None:
        cell = row.get(name)
        return float(cell) if cell else None

    def whole(name: str) -> int:
        return int(row.get(name) or 0)

    value, reason = number("value"), row.get("reason", "")
    if value is None and reason in {"inf", "-inf"}:
        value = float(reason)
    return Stored(
        time_ns=int(row["time"]),
        value=value,
        reason=reason,
        unit=_text_of_tag(row["unit"]),
        quality=whole("quality"),
        tests=whole("tests"),
        mark=whole("mark"),
        status=whole("status"),
        estimate=number("estimate"),
        rate=number("rate"),
        std=number("std"),
        innovation=number("innovation"),
        nis=number("nis"),
        arrival_ns=whole("arrival_ns"),
        server_ns=whole("server_ns"),
        source=row.get("source", ""),
        seq=whole("seq"),
    )


def _text_of_tag(value: str) -> str:
    return "" if value == EMPTY_TAG else value


def _fields(row: dict[str, str]) -> Fields:
    return {name: cell for name, cell in row.items() if cell and name not in _NO_FIELDS}
