"""Reads back what InfluxDB holds, with nothing but its documented HTTP interface (InfluxQL, CSV)."""

import csv
import io
import json
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
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
    "nis",
    "arrival_ns",
    "source",
    "seq",
)
EMPTY_UNIT = "none"


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
    nis: float | None
    arrival_ns: int
    source: str
    seq: int


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
        form = {"db": self.bucket, "epoch": "ns", "q": query, "params": json.dumps(parameters)}
        headers = {"Authorization": f"Token {self.token}", "Accept": "application/csv"}
        request = urllib.request.Request(f"{self.url}/query", urllib.parse.urlencode(form).encode(), headers)
        trusted = ssl.create_default_context(cafile=self.ca_file)
        opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=trusted)
        )
        try:
            with opener.open(request, timeout=self.timeout_s) as answer:
                text = answer.read().decode()
        except urllib.error.HTTPError as error:
            raise StoreError(f"InfluxDB {error.code}: {error.read()[:300].decode('utf-8', 'replace')}") from error
        except OSError as error:
            raise StoreError(f"InfluxDB at {self.url} does not answer: {error}") from error
        for row in csv.DictReader(io.StringIO(text, newline="")):
            if "error" in row:
                raise StoreError(f"InfluxDB: {row['error']}")
            yield row


def _stored(row: dict[str, str]) -> Stored:
    def number(name: str) -> float | None:
        cell = row.get(name)
        return float(cell) if cell else None

    def whole(name: str) -> int:
        return int(row.get(name) or 0)

    value, reason = number("value"), row.get("reason", "")
    if value is None and reason in {"inf", "-inf"}:
        value = float(reason)
    unit = row["unit"]
    return Stored(
        time_ns=int(row["time"]),
        value=value,
        reason=reason,
        unit="" if unit == EMPTY_UNIT else unit,
        quality=whole("quality"),
        tests=whole("tests"),
        mark=whole("mark"),
        status=whole("status"),
        estimate=number("estimate"),
        nis=number("nis"),
        arrival_ns=whole("arrival_ns"),
        source=row.get("source", ""),
        seq=whole("seq"),
    )
