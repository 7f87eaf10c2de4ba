"""Row 18: values that are no numbers, or numbers that few expect, by MQTT and by OPC UA."""

import math
import time
from typing import Any

import pandas as pd

from connectors.framer import TEXT_CHARS_MAX
from schemas.quality import Flag, Test
from tests.connectors.opcua_tools import ServerProcess
from tests.faults.bad_data import (
    LIGHT,
    SECOND_NS,
    device,
    hexadecimal,
    little_memory,
    refused_payloads,
    require_finite_filters,
    wait_stored,
)
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import System

TITLE = 'NaN, ±Inf, −0.0, 1e308, denormal, 2^63, "12,5", true, empty, emoji, 1 MB text'
ASSET = "BAD18"
#: What a device sends, and what is stored: the bits of a number, or the text that came instead.
VALUES: list[tuple[Any, float | str]] = [
    (85.0, 85.0), (math.nan, "NaN"), (math.inf, "Infinity"), (-math.inf, "-Infinity"), (-0.0, -0.0), (1e308, 1e308),
    (-1e308, -1e308), (5e-324, 5e-324), (2**63, 2.0**63), ("12,5", "12,5"), (True, "true"), (False, "false"),
    (None, "null"), ("", ""), ("🌡 heiß", "🌡 heiß"), ("x" * 1_000_000, "x" * TEXT_CHARS_MAX), (85.5, 85.5),
]  # fmt: skip
#: By OPC UA a number may be NaN or an infinity itself. No 1 MB text: a variable has one type, the texts have a tag.
DOUBLES = [85.0, math.nan, math.inf, -math.inf, -0.0, 1e308, -1e308, 5e-324, 2.0**63, 85.5]
SPAN = [-50, 400]
BACK_S = 60.0


def run(rig: Rig) -> None:
    """Each value is stored with its bits or its text and the flag it must have; no filter holds what is no number."""
    server = ServerProcess(assets=1, tags=["Odd"])
    plain = {"security": "None", "mode": "None"}
    settings = {
        "opcua": [{"id": "opcua-1", **plain}, {"id": "opcua-odd", "url": server.url, **plain}],
        "tags": {f"{ASSET}/spanned": {"validation": {"fail_span": SPAN, "suspect_span": SPAN}}},
    }
    try:
        under_load(rig, lambda rig, system: strike(rig, system, server), settings=settings, load=LIGHT)
    finally:
        server.process.kill()


def strike(rig: Rig, system: System, server: ServerProcess) -> None:
    """The values in an order by the seed, twice: a tag without limits, and one with a span."""
    values = [VALUES[0], *rig.rng.sample(VALUES[1:-1], len(VALUES) - 2), VALUES[-1]]
    begin_ns = time.time_ns() - 60 * SECOND_NS
    system.pulse.ignored.add("R0")
    with device(system, ASSET) as sensor, little_memory(rig, system):
        for tag in ("free", "spanned"):
            for i, (value, _) in enumerate(values):
                sensor.publish(tag, {"value": value, "unit": "degC", "timestamp": begin_ns + i * SECOND_NS})
        for i, value in enumerate(DOUBLES):
            server.do("write", name="Reactor.R0.Odd.PV", value=value, time_ns=begin_ns + i * 1_000_000)
            time.sleep(0.3)  # a value per publishing: the server's queue is not what this row is about
        for tag in ("free", "spanned"):
            found = wait_stored(rig, system, ASSET, tag, len(values))
            for (_, wanted), (_, row) in zip(values, found.iterrows(), strict=False):
                judge(rig, tag, wanted, row)
        judge_opcua(rig, system, begin_ns)
        system.wait_flowing(BACK_S)
    reasons = refused_payloads(system, ASSET).values()
    rig.require(any("1000000 characters" in reason for reason in reasons), "the whole 1 MB text is among the rejected")
    require_finite_filters(rig, system, {ASSET, "R0"})


def judge(rig: Rig, tag: str, wanted: float | str, row: pd.Series) -> None:
    """One reading as stored."""
    what = f"{tag}, {str(wanted)[:20]!r}"
    if isinstance(wanted, str):
        rig.require(row["flag"] == Flag.FAIL, f"{what}: BAD, is {row['flag']}")
        rig.require(math.isnan(row["value"]), f"{what}: no number, is {row['value']}")
        rig.require(row["text"] == wanted, f"{what}: the text is kept: {str(row['text'])[:30]!r}")
    else:
        rig.require(hexadecimal(row["value"]) == hexadecimal(wanted), f"{what}: to the bit, is {row['value']!r}")
        outside = tag == "spanned" and not SPAN[0] <= wanted <= SPAN[1]
        rig.require((row["flag"] == Flag.FAIL) == outside, f"{what}: BAD where outside its span, is {row['flag']}")
        rig.require(bool(row["tests"] & Test.RANGE) == outside, f"{what}: the range test says so: {row['tests']}")
    rig.struck()


def judge_opcua(rig: Rig, system: System, begin_ns: int) -> None:
    """NaN and infinities as OPC UA brings them: BAD; the other numbers to the bit."""
    found = wait_stored_from(rig, system, begin_ns)
    for i, wanted in enumerate(DOUBLES):
        time_ns = (begin_ns + i * 1_000_000) // 1000 * 1000
        rows = found[found.index.as_unit("ns").asi8 == time_ns]
        rig.require(len(rows) == 1, f"OPC UA {wanted!r}: stored once, {len(rows)} times")
        for _, row in rows.iterrows():
            if math.isfinite(wanted):
                rig.require(hexadecimal(row["value"]) == hexadecimal(wanted), f"OPC UA {wanted!r}: {row['value']!r}")
            else:
                rig.require(row["flag"] == Flag.FAIL, f"OPC UA {wanted!r}: BAD, is {row['flag']}")
                rig.require(bool(row["tests"] & Test.FINITE), f"OPC UA {wanted!r}: the finite test says so")
            rig.struck()


def wait_stored_from(rig: Rig, system: System, begin_ns: int) -> pd.DataFrame:
    """The readings of the OPC UA variable that the row wrote; the server's first value is one more."""
    found = wait_stored(rig, system, "R0", "odd", len(DOUBLES) + 1)
    return found[found.index.as_unit("ns").asi8 >= begin_ns // 1000 * 1000]
