"""Frames and records the sink's tests store, and a plant configuration that points at a bucket of the test's own."""

import json
import urllib.request
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agents.batches import Received
from runtime.config import Influxdb, Plant
from schemas.codec import Record, encode
from schemas.frames import EstimateFrame
from schemas.topics import ESTIMATES, Topic
from services.influxdb import InfluxDB

START_NS = 1_760_000_000_000_000_000
WEIRD = (
    0.0,
    -0.0,
    5e-324,
    -5e-324,
    2.2250738585072014e-308,
    1e308,
    -1.7976931348623157e308,
    85.3,
    1 / 3,
    2.0**63,
    1e22,
)


def frame(
    values: NDArray[np.float64],
    *,
    asset: str = "R101",
    tags: tuple[str, ...] = ("temperature",),
    units: tuple[str, ...] = ("degC",),
    seq: int = 0,
    start_ns: int = START_NS,
    texts: dict[int, str] | None = None,
    source_time_ns: NDArray[np.int64] | None = None,
) -> EstimateFrame:
    """An estimate frame of these values, one per ms, tags in turn; estimates are the values plus 0.5."""
    n = len(values)
    steps = np.arange(n)
    times = start_ns + steps * 1_000_000 if source_time_ns is None else source_time_ns
    return EstimateFrame(
        asset=asset,
        source="mqtt-1",
        epoch=1,
        seq=seq,
        time_ns=start_ns,
        tags=tags,
        units=units,
        tag=(steps % len(tags)).astype("<u2"),
        source_time_ns=times.astype("<i8"),
        server_time_ns=np.zeros(n, "<i8"),
        arrival_time_ns=(start_ns + steps * 1_000_000 + 500).astype("<i8"),
        value=values.astype("<f8"),
        status=np.zeros(n, "<u4"),
        mark=np.zeros(n, "u1"),
        texts=texts or {},
        flag=np.ones(n, "u1"),
        tests=np.zeros(n, "<u4"),
        ordinal=np.zeros(n, "u1"),
        estimate=values + 0.5,
        rate=np.zeros(n),
        std=np.ones(n),
        innovation=np.full(n, np.nan),
        nis=np.full(n, np.nan),
    )


def received(record: Record | bytes, offset: int = 0, topic: Topic = ESTIMATES) -> Received:
    """A record as the adapter hands it over."""
    value = record if isinstance(record, bytes) else encode(record)
    return Received(topic=topic, partition=0, offset=offset, key=b"R101", value=value)


def plant_with_bucket(influx: InfluxDB, bucket: str, directory: Path, url: str | None = None) -> Plant:
    """A configuration for a fresh bucket; the token is in a file, as a plant's would be."""
    make_bucket(influx, bucket)
    token_file = directory / "token"
    token_file.write_text(influx.token)
    return Plant(influxdb=Influxdb(url=url or influx.url, org=influx.org, bucket=bucket, token_file=token_file))


def make_bucket(influx: InfluxDB, bucket: str) -> None:
    """A bucket without a limit on age."""
    org_id = _call(influx, f"/api/v2/orgs?org={influx.org}")["orgs"][0]["id"]
    _call(influx, "/api/v2/buckets", {"orgID": org_id, "name": bucket, "retentionRules": []})


def _call(influx: InfluxDB, path: str, body: dict[str, object] | None = None) -> dict[str, list[dict[str, str]]]:
    headers = {"Authorization": f"Token {influx.token}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(influx.url + path, data, headers)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=10) as answer:
        parsed: dict[str, list[dict[str, str]]] = json.load(answer)
    return parsed
