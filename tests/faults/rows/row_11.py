"""Row 11: a batch of 5,000 readings holds one that InfluxDB does not take; its neighbours must not suffer.

Two ways in which that happens to a sound system. Another program has written texts where the twin writes numbers, for
some week of the past, and a device sends one old reading among its new ones. Or a tag has a name that line protocol
cannot express.
"""

import json
import re
import time
import urllib.request
from datetime import UTC, datetime

from paho.mqtt import publish

from audit.store import Database
from schemas.codec import decode_as
from schemas.frames import EstimateFrame
from schemas.records import Rejected
from schemas.topics import REJECTED
from tests.faults.rig import Rig
from tests.faults.standard import bounded_memory, under_load
from tests.faults.system import System

TITLE = "one poisonous line in a batch of 5,000"
BATCH = 5000
MS = 1_000_000  # in ns: a reading per millisecond, and no two batches at the same time
ASSET, TAG = "P001", "analysis"
UNWRITABLE_TAG = "analysis\\"
#: In this week other data lie where the twin writes numbers.
OLD_NS = int(datetime(2020, 1, 5, tzinfo=UTC).timestamp()) * 10**9
STORED_S = 60.0
LOG = r"1 of \d+ lines cannot be stored"


def run(rig: Rig) -> None:
    """Both ways, with the poison at random places."""
    under_load(rig, strike)


def strike(rig: Rig, system: System) -> None:
    """Batch after batch, each with one poisonous reading."""
    system.pulse.ignored.add(ASSET)
    _occupy(system)
    batches = rig.times(full=20, short=2)
    begin_ns = time.time_ns() - batches * BATCH * MS
    with bounded_memory(rig, system):
        for n in range(batches):
            _poison(rig, system, begin_ns + n * BATCH * MS, by_name=n % 2 == 1)
    system.wait_flowing(60)


def _poison(rig: Rig, system: System, base_ns: int, by_name: bool) -> None:
    place = rig.rng.randrange(BATCH)
    times_ns = [base_ns + i * MS for i in range(BATCH)]
    poison_ns = times_ns[place] if by_name else OLD_NS + rig.rng.randrange(3600 * 10**9)
    good = [{"value": float(i), "timestamp": ns} for i, ns in enumerate(times_ns) if i != place]
    poison = {"value": -1.0, "timestamp": poison_ns}
    counted = system.metric("sink", "twin_rejected_total") or 0.0
    known, lines = len(_rejected(system)), system.log_matches("sink", LOG)
    if by_name:
        _send(system, {TAG: good, UNWRITABLE_TAG: [poison]})
    else:
        _send(system, {TAG: [*good[:place], poison, *good[place:]]})
    influxdb = system.stack.influxdb
    database = Database(url=influxdb.url, bucket=influxdb.bucket, token=influxdb.token)

    def stored() -> list[float | None]:
        return [r.value for r in database.readings(ASSET, TAG, base_ns, base_ns + BATCH * MS)]

    rig.wait_for(lambda: len(stored()) >= BATCH - 1, f"{BATCH - 1} readings are stored", STORED_S)
    rig.wait_for(lambda: len(_rejected(system)) > known, "one reading is rejected", STORED_S)
    rig.struck()
    kind = "a tag that cannot be written" if by_name else "a field of another type"
    rig.require(stored() == [r["value"] for r in good], f"{kind}: the other {BATCH - 1} are stored as they were sent")
    fresh = _rejected(system)[known:]
    rig.require(len(fresh) == 1, f"{kind}: 1 is rejected, not {len(fresh)}")
    payload, reason = fresh[-1].payload, fresh[-1].reason
    # A line that InfluxDB refuses is kept as it is; of what cannot be made a line, a frame with the one reading is.
    times = decode_as(payload, EstimateFrame).source_time_ns.tolist() if by_name else [int(payload.split()[-1])]
    rig.require(times == [poison_ns], f"{kind}: it is the poisonous one: {payload[:200]!r}")
    rig.require(re.search("backslash" if by_name else "type", reason), f"{kind}: the reason tells: {reason}")
    rig.wait_for(
        lambda: (system.metric("sink", "twin_rejected_total") or 0.0) == counted + 1,
        "twin_rejected_total counts it",
        10,
    )
    rig.require(system.log_matches("sink", LOG) == lines + 1, f"{kind}: one line in the sink's log ({LOG})")


def _rejected(system: System) -> list[Rejected]:
    """What the sink rejected, in its order: all of one asset lies in one partition."""
    return [r for r in system.records(REJECTED) if isinstance(r, Rejected) and r.stage == "sink"]


def _send(system: System, batches: dict[str, list[dict[str, float]]]) -> None:
    messages = [
        {"topic": f"reactor/{ASSET}/sensor/{tag}", "payload": json.dumps(batch), "qos": 1}
        for tag, batch in batches.items()
    ]
    broker = system.stack.mosquitto
    publish.multiple(messages, hostname=broker.host, port=broker.port)


def _occupy(system: System) -> None:
    """Another program's text where the twin would write a number."""
    influxdb = system.stack.influxdb
    request = urllib.request.Request(
        f"{influxdb.url}/api/v2/write?org={influxdb.org}&bucket={influxdb.bucket}",
        f'reactor_sensor,reactor_id=other value="a text" {OLD_NS}'.encode(),
        {"Authorization": f"Token {influxdb.token}"},
    )
    urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=30).close()
