"""The demo's script: every kind of fault once within a minute, each on a tag of its own, so that none hides another."""

from collections.abc import Sequence
from dataclasses import replace

from plant.faults import Fault

#: The script is written for a run of so long, and starts again after so long in a run without end.
CYCLE_S = 60.0
#: The last so many seconds of a run stay free, so that the end of every fault is seen.
TAIL_S = 3.0


def demo_script(assets: Sequence[str], seconds: float | None) -> tuple[Fault, ...]:
    """The script for these assets. In a shorter or longer run starts move in proportion; durations stay.

    A fault whose time would not fit before the end starts earlier, at the latest possible moment, or is cut short.
    """
    span_s = CYCLE_S if seconds is None else seconds
    a, b, c = (assets[i % len(assets)] for i in range(3))
    faults = [_fit(fault, span_s) for fault in _minute(a, b, c)]
    return tuple(_without_overlaps(faults))


def _minute(a: str, b: str, c: str) -> list[Fault]:
    """A minute's faults. Sizes are such that the test meant to see it sees it with the demo's `plant.toml`."""
    return [
        Fault(kind="spike", asset=a, tag="temperature", start_s=14, duration_s=6, size=0.41, every=20),
        Fault(kind="text", asset=b, tag="temperature", start_s=16, duration_s=2, every=2),
        Fault(kind="status_uncertain", asset=a, tag="ph", start_s=18, duration_s=3),
        Fault(kind="dropout", asset=b, tag="pressure", start_s=20, duration_s=6),
        Fault(kind="out_of_range", asset=c, tag="temperature", start_s=22, duration_s=2, size=500.0, every=4),
        Fault(kind="repeat", asset=a, tag="pressure", start_s=24, duration_s=3, every=2),
        Fault(kind="step", asset=b, tag="temperature_jacket", start_s=26, duration_s=8, size=4.0),
        Fault(kind="status_bad", asset=b, tag="flow_rate", start_s=28, duration_s=3),
        Fault(kind="clock_skew", asset=c, tag="temperature_jacket", start_s=30, duration_s=2, size=907.0433),
        Fault(kind="late", asset=c, tag="pressure", start_s=32, duration_s=4, size=1.2, every=4),
        Fault(kind="stuck", asset=c, tag="flow_rate", start_s=34, duration_s=10),
        Fault(kind="garbage", asset=a, tag="temperature_jacket", start_s=36, duration_s=2, every=4),
        Fault(kind="drift", asset=c, tag="level", start_s=36, duration_s=14, size=0.6),
        Fault(kind="dropout", asset=a, tag="flow_rate", start_s=44, duration_s=5),
        Fault(kind="stuck", asset=a, tag="temperature", start_s=44, duration_s=10),
    ]


def _fit(fault: Fault, span_s: float) -> Fault:
    start_s = fault.start_s * span_s / CYCLE_S
    needs_s = fault.duration_s + TAIL_S
    start_s = max(0.0, min(start_s, span_s - needs_s))
    return replace(fault, start_s=start_s, duration_s=max(0.0, min(fault.duration_s, span_s - start_s)))


def _without_overlaps(faults: Sequence[Fault]) -> list[Fault]:
    """Where a tag has two faults that would meet in a short run, only the first stays."""
    free_at: dict[tuple[str, str], float] = {}
    kept = []
    for fault in sorted(faults, key=lambda f: f.start_s):
        key = (fault.asset, fault.tag)
        if fault.start_s >= free_at.get(key, 0.0):
            kept.append(fault)
            free_at[key] = fault.start_s + fault.duration_s
    return kept
