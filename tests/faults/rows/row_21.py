"""Row 21: the OPC UA server restarts, renumbers, ends sessions, cuts connections, loses a node; codes of all kinds."""

import time
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any

from asyncua import ua

from audit.store import Database
from plant.journal import read
from schemas.frames import Frame
from schemas.quality import Flag
from schemas.topics import RAW
from services.stack import Stack
from tests.faults.opcua_field import FLEETING, FieldProcess, subscribed
from tests.faults.rig import Rig
from tests.faults.system import System, running

TITLE = "OPC UA: server restarts, namespace moves, node removed, session dropped, Uncertain and Bad"
SUBSCRIBED_S = 10.0
PATIENCE_S = 60.0
NODE = f"Reactor.{FLEETING}.Temperature.PV"


def run(rig: Rig) -> None:
    """Subscribed again within 10 s each time; lost is only what gap frames tell of a server away; statuses are kept."""
    with Stack(rig.folder / "services") as stack, running(rig, stack, load=None) as system:
        with closing(FieldProcess(rig, system, assets=5, tags=["Temperature", "Pressure"])) as field:
            rig.wait_for(lambda: subscribed(system), "the connector subscribes", PATIENCE_S)
            field.begin()
            rig.wait_for(lambda: len(system.pulse.sources) >= 5, "the twin knows every asset", PATIENCE_S)
            lossy_s = strike(rig, system, field)
            field.finish(rig, system)
            told = system.finish(told=True)["told"]
            unexcused = [hole for hole in told if hole["missing"] and not _meets(hole, lossy_s)]
            rig.require(
                not unexcused, f"only a server that was away, or ended the session, loses readings: {unexcused[:3]}"
            )
        check_quality(rig, system)


def strike(rig: Rig, system: System, field: FieldProcess) -> list[tuple[float, float]]:
    """Everything that a server can do, in an order by the seed.

    Returns when it was something that takes the subscription with its queues away: from and to in s since 1970.
    """
    namespaces = 0
    lossy_s: list[tuple[float, float]] = []

    def restart() -> None:
        field.kill()
        field.restart()

    def renumber() -> None:
        nonlocal namespaces
        namespaces += 3
        field.kill()
        field.restart(other_namespaces=namespaces)

    blows: dict[str, Callable[[], None]] = {
        "restart": restart,
        "namespace moves": renumber,
        "session dropped": lambda: field.do("end_sessions"),
        "connection cut": lambda: field.do("cut"),
    }
    took_s: dict[str, list[float]] = {name: [] for name in (*blows, "node removed", "node back")}
    for _ in range(rig.times(full=5, short=1)):
        for name in rig.rng.sample(list(blows), len(blows)):
            time.sleep(rig.rng.uniform(0.2, 1.5))
            before, began_s = subscribed(system), time.time()
            blows[name]()
            up_s = time.time()  # a server that was started again listens now
            rig.wait_for(lambda before=before: subscribed(system) > before, f"{name}: subscribed", PATIENCE_S)  # type: ignore[misc]
            took_s[name].append(round(time.time() - up_s, 2))
            rig.struck()
            system.wait_flowing(PATIENCE_S, since_s=up_s)
            if name != "connection cut":
                lossy_s.append((began_s, time.time()))
        _remove_a_node(rig, system, field, took_s)
    rig.note("subscribed_again_s", took_s)
    gone_s = took_s.pop("node removed")  # noticed, not subscribed
    rig.note("node removed, noticed (s)", gone_s)
    limit_s = rig.limit_s(SUBSCRIBED_S)
    for name, times in took_s.items():
        rig.require(max(times) <= limit_s, f"{name}: within {limit_s:g} s: {max(times)} s")
    return lossy_s


def _meets(hole: Mapping[str, Any], spans_s: list[tuple[float, float]]) -> bool:
    return any(hole["from_ns"] < to_s * 1e9 and hole["to_ns"] > from_s * 1e9 for from_s, to_s in spans_s)


def _remove_a_node(rig: Rig, system: System, field: FieldProcess, took_s: dict[str, list[float]]) -> None:
    gone, began_s = ua.StatusCodes.BadNodeIdUnknown, time.time()
    field.do("delete", name=NODE)
    rig.wait_for(lambda: _arrived(system, began_s)[gone], "the removed node's tag is BAD", PATIENCE_S)
    took_s["node removed"].append(round(time.time() - began_s, 2))
    rig.struck()
    back_s = time.time()
    field.do("add", name=NODE)
    rig.wait_for(lambda: _arrived(system, back_s)[ua.StatusCodes.Good], "the node's tag is back", PATIENCE_S)
    took_s["node back"].append(round(time.time() - back_s, 2))


def _arrived(system: System, since_s: float) -> Counter[int]:
    """Statuses of the fleeting tag's readings that arrived after a time (s since 1970)."""
    found: Counter[int] = Counter()
    for frame in system.records(RAW):
        if isinstance(frame, Frame) and frame.asset == FLEETING and "temperature" in frame.tags:
            mine = (frame.tag == frame.tags.index("temperature")) & (frame.arrival_time_ns > since_s * 1e9)
            found.update(frame.status[mine].tolist())
    return found


def check_quality(rig: Rig, system: System) -> None:
    """Every status stands in InfluxDB as the server wrote it, with the flag that belongs to it."""
    influxdb = system.stack.influxdb
    database = Database(url=influxdb.url, bucket=influxdb.bucket, token=influxdb.token)
    lines = list(read(system.journals[0]))
    counts: Counter[str] = Counter()
    for asset, tag in sorted({(line["asset"], line["tag"]) for line in lines}):
        sent = {
            line["source_time_ns"]: line.get("status", 0)
            for line in lines
            if (line["asset"], line["tag"]) == (asset, tag)
        }
        for point in database.readings(asset, tag, min(sent), max(sent)):
            if point.time_ns not in sent:
                continue
            status = sent[point.time_ns]
            least = (Flag.GOOD, Flag.SUSPECT, Flag.FAIL)[status >> 30]
            counts[("Good", "Uncertain", "Bad")[status >> 30]] += 1
            if point.status != status or point.quality < least or (least is Flag.FAIL and point.quality != Flag.FAIL):
                words = (
                    f"{asset}/{tag} at {point.time_ns}: status {status:#x} became {point.status:#x}, {point.quality}"
                )
                rig.require(False, words)
    rig.note("stored_by_status", dict(counts))
    rig.require(all(counts[name] for name in ("Good", "Uncertain", "Bad")), f"there are all kinds: {dict(counts)}")
