"""Row 10: InfluxDB is away, slow, refuses, or breaks off; only the sink may notice."""

import time
from collections.abc import Callable

from agents.sink import UNAUTHORISED
from schemas.records import Alert
from schemas.topics import ALERTS
from tests.agents.fault_proxy import FaultProxy, Trouble
from tests.faults.rig import Rig
from tests.faults.standard import bounded_memory, under_load
from tests.faults.system import System

TITLE = "InfluxDB away, slow, 500, 503, 429, 413, 401, half-closed"
#: The sink waits up to 30 s between two attempts, and the row's backlog takes a while.
BACK_S = 90.0
#: "Not affected": below 1 s, or, on a machine that is busy with other things, hardly more than right before.
LAG_S = 1.0
BUSY_FACTOR = 1.5
CALM_S = 5.0
TROUBLES = {
    "slow": Trouble("slow", seconds=5.0),
    "500": Trouble("answer", 500),
    "503": Trouble("answer", 503),
    "429": Trouble("answer", 429, retry_after="2"),
    "413": Trouble("answer", 413, largest_body=4000),
    "401": Trouble("answer", 401),
    "half-closed": Trouble("half_closed"),
}
#: What the sink's log says of each, beside the number of the status.
LOG = {"away": "no answer", "slow": "InfluxDB is slow", "413": "InfluxDB 413.*in halves", "half-closed": "no answer"}
#: The metric that counts each.
METRIC = {"slow": "twin_stored_after_seconds_sum", "413": "twin_split_requests_total"}


def run(rig: Rig) -> None:
    """Each trouble for a while, one after the other, in an order by the seed."""
    under_load(rig, strike, proxies=("influxdb",))


def strike(rig: Rig, system: System) -> None:
    """InfluxDB away; through a proxy, where the system has one, everything else too."""
    with bounded_memory(rig, system):
        with system.pulse.lags_s() as lags_s:
            time.sleep(CALM_S)
        rig.note("before: lag of the twin (s)", _summary(lags_s))
        allowed_s = max(rig.limit_s(LAG_S), BUSY_FACTOR * max(lags_s))
        _watched(rig, system, "away", allowed_s, lambda: _away(rig, system))
        if system.influxdb_proxy is not None:
            proxy = system.influxdb_proxy
            names = rig.rng.sample(list(TROUBLES), len(TROUBLES))
            for name in names:
                _watched(rig, system, name, allowed_s, lambda name=name: _troubled(rig, proxy, TROUBLES[name]))  # type: ignore[misc]
            refusals = [r for r in system.records(ALERTS) if isinstance(r, Alert) and r.kind == UNAUTHORISED]
            rig.require(refusals, "an alert for the 401")


def _watched(rig: Rig, system: System, name: str, allowed_s: float, trouble: Callable[[], None]) -> None:
    """Strike once, and see what the sink says, that the twin does not lag, and that the sink comes back."""
    pattern = LOG.get(name, f"status {name}")
    metric = METRIC.get(name, "twin_retries_total")
    lines, counted = system.log_matches("sink", pattern), _metric(system, metric)
    with system.pulse.lags_s() as lags_s:
        trouble()
    took_s = system.wait_flowing(BACK_S)
    rig.note(f"{name}: lag of the twin meanwhile (s)", _summary(lags_s))
    rig.note(f"{name}: sink back (s)", round(took_s, 1))
    rig.require(max(lags_s) < allowed_s, f"{name}: the twin lags less than {allowed_s:.2f} s: {max(lags_s):.2f} s")
    rig.require(system.log_matches("sink", pattern) > lines, f"{name}: a line in the sink's log ({pattern})")
    rig.require(_metric(system, metric) > counted, f"{name}: counted in {metric}")


def _away(rig: Rig, system: System) -> None:
    with system.without("influxdb"):
        time.sleep(rig.times(full=60, short=5))


def _troubled(rig: Rig, proxy: FaultProxy, trouble: Trouble) -> None:
    before = proxy.troubled
    proxy.always = trouble
    try:
        rig.wait_for(lambda: proxy.troubled > before, f"a request meets {trouble}", 30)
        time.sleep(rig.times(full=30, short=2))
    finally:
        proxy.always = None
    rig.struck()


def _metric(system: System, metric: str) -> float:
    peer = {} if metric.startswith("twin_stored") else {"dependency": "influxdb"}
    return system.metric("sink", metric, **peer) or 0.0


def _summary(lags_s: list[float]) -> dict[str, float]:
    ordered = sorted(lags_s)
    return {"median": round(ordered[len(ordered) // 2], 2), "max": round(ordered[-1], 2)}
