"""Row 8: Kafka is away while the field keeps sending.

What comes by OPC UA goes to the disk spool, what comes by MQTT stays with the MQTT broker, unacknowledged. Then a spool
that is too small: the OPC UA server has to wait, somebody is told, and nothing is dropped without a word.
"""

import time

from schemas.records import Alert
from schemas.topics import ALERTS
from tests.faults.crossing import Crossing
from tests.faults.rig import Rig
from tests.faults.standard import bounded_memory, under_load
from tests.faults.system import OPCUA, Load, System

TITLE = "Kafka away while the field keeps sending"
FLOWS_S = 120.0
SPOOL_BYTES = 1024 * 1024
FULL_S = 180.0
#: Enough by OPC UA to fill that spool quickly.
MUCH = Load(assets=8, tags=40, rate_hz=10.0, opcua_share=0.9)


def run(rig: Rig) -> None:
    """60 s and 600 s with room for everything; then a system of its own whose spool is too small."""
    under_load(rig, strike)
    settings = {
        "kafka": {"prefix": f"row8-{rig.outcome.seed}-full"},  # tools keep a client per configuration
        "opcua": [{"id": OPCUA, "security": "None", "mode": "None", "spool": {"bytes_max": SPOOL_BYTES}}],
    }
    bounded = Rig(rig.outcome, rig.folder / "bounded", rig.rng)
    under_load(bounded, overfill, settings=settings, load=MUCH, told=True)


def strike(rig: Rig, system: System) -> None:
    """Kafka is away for a while, killed or stopped; what waited is drained quickly."""
    for away_s in (10,) if rig.short else (60, 600):
        crossing = Crossing(rig, system)
        with bounded_memory(rig, system):
            with system.without("kafka", clean=rig.rng.random() < 0.5):
                time.sleep(away_s)
                crossing.require_noticed()
            back_s = time.time()
            crossing.drained()
            system.wait_flowing(FLOWS_S, since_s=back_s)


def overfill(rig: Rig, system: System) -> None:
    """Kafka stays away until the spool is full, and a little longer."""
    with bounded_memory(rig, system), system.without("kafka"):
        rig.wait_for(lambda: system.log_matches(OPCUA, "spool: full"), "the spool is full", FULL_S)
        time.sleep(rig.times(full=30, short=5))
        size = system.metric(OPCUA, "twin_spool_bytes") or 0.0
        rig.note("full spool (bytes)", size)
        rig.require(0.8 * SPOOL_BYTES < size <= 1.1 * SPOOL_BYTES, f"twin_spool_bytes shows a full spool: {size:g}")
        rig.require(system.metric(OPCUA, "twin_healthy") == 0, "twin_healthy shows that the field has to wait")
    system.wait_flowing(FLOWS_S)
    rig.require(not system.metric(OPCUA, "twin_spool_dropped_total"), "the spool dropped nothing")
    told = [r for r in system.records(ALERTS) if isinstance(r, Alert) and r.kind == "spool"]
    rig.require(any("full" in alert.message for alert in told), "an alert says that the spool is full")
