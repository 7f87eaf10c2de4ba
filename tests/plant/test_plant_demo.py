"""The demo's script and settings fit each other: the real kernels see every fault, and nothing where there is none."""

from collections import defaultdict
from math import nan
from pathlib import Path
from typing import Any

import plant
from connectors.framer import Framer, Reading
from kernels.stage import Settings
from kernels.stages import STAGES
from plant.faults import Injector
from plant.physics import Reactors
from plant.samples import Sample
from plant.script import demo_script
from plant.sensors import Instruments
from runtime.config import Framing
from runtime.load import load
from schemas.frames import Frame
from schemas.quality import Flag, Mark, Test

SECONDS, RATE_HZ = 60, 10
TRAVEL_NS = 3_000_000
#: So long after a fault its tag may still be flagged for it.
SETTLE_NS = 5 * 10**9

#: The test that is there to see each kind of fault.
MEANT = {
    "spike": Test.SPIKE,
    "step": Test.ZSCORE,
    "out_of_range": Test.RANGE,
    "stuck": Test.FLAT_LINE,
    "drift": Test.DRIFT,
    "text": Test.FINITE,
    "clock_skew": Test.TIME,
    "late": Test.LATE,
    "status_uncertain": Test.STATUS,
    "status_bad": Test.STATUS,
}


def simulated() -> tuple[list[Sample], list[Frame]]:
    """A minute of the demo as samples and as the frames two connectors make of them."""
    instruments, reactors = Instruments(3, 1), Reactors(3)
    injector = Injector(demo_script(instruments.assets, SECONDS))
    framers = {protocol: Framer(protocol, 1, Framing()) for protocol in ("mqtt", "opcua")}
    samples, frames, start_ns = [], list[Frame](), 1_700_000_000 * 10**9
    for n in range(1, SECONDS * RATE_HZ + 1):
        reactors.step(1 / RATE_HZ)
        due_ns = start_ns + n * 10**9 // RATE_HZ
        now_ns = due_ns + TRAVEL_NS
        for framer in framers.values():
            frames += [frame for frame, _ in framer.due(now_ns)]
        for sample in injector.apply(instruments.read(reactors, due_ns), n / RATE_HZ):
            if sample.garbage is None:
                samples.append(sample)
                framers[sample.protocol].add(reading(sample, now_ns), now_ns)
    for framer in framers.values():
        frames += [frame for frame, _ in framer.due(now_ns + 10**9, flush=True)]
    return samples, frames


def reading(sample: Sample, arrival_ns: int) -> Reading:
    """A sample as a connector hands it on."""
    return Reading(
        asset=sample.asset,
        tag=sample.tag,
        unit=sample.unit,
        value=nan if sample.value is None else sample.value,
        source_time_ns=sample.source_time_ns,
        arrival_time_ns=arrival_ns,
        status=sample.status,
        text=sample.text,
        mark=Mark.TEXT if sample.text else 0,
    )


def judged(frames: list[Frame]) -> list[Any]:
    """All frames after validation and estimation with the demo's settings."""
    config = load(Path(plant.__file__).parent / "demo.toml")
    settings = Settings(
        tag=lambda asset, tag: config.tag(asset, tag).model_dump(),
        asset=lambda asset: config.asset(asset).model_dump(),
        twin=config.twin.model_dump(),
    )
    for name in ("validation", "estimation"):
        stage, params = STAGES[name].stage, STAGES[name].params_from(settings)
        states: dict[str, Any] = {}
        after = []
        for frame in frames:
            state, out, _ = stage.step(states.get(frame.asset) or stage.initial(frame.asset), frame, params)
            states[frame.asset] = state
            after.append(out)
        frames = after
    return frames


def test_every_fault_is_seen_by_its_test_and_nothing_else_is() -> None:
    """Each fault of the demo is flagged by the test meant for it, a dropout by missing readings; no false alarm."""
    samples, frames = simulated()
    sent = {(s.asset, s.tag, s.source_time_ns): s for s in samples if not s.repeat}
    faulty = defaultdict(list)
    for s in sent.values():
        if s.fault:
            faulty[s.asset, s.tag].append(s.source_time_ns)
    seen, missing, alarms, repeated = set(), set(), [], 0
    for frame in judged(frames):
        repeated += frame.repeated
        for i in range(len(frame)):
            tag = (frame.asset, frame.tags[frame.tag[i]])
            if frame.mark[i] & Mark.IMPUTED:
                missing.add(tag)
                continue
            sample = sent.pop((*tag, int(frame.source_time_ns[i])))
            if sample.fault:
                seen |= {(*tag, sample.fault, test) for test in Test if frame.tests[i] & test}
            elif frame.flag[i] in (Flag.SUSPECT, Flag.FAIL):
                time_ns = sample.source_time_ns
                if not any(0 <= time_ns - at <= SETTLE_NS for at in faulty[tag]):
                    alarms.append(sample)
    assert not sent, "readings that did not come out"
    script = demo_script(Instruments(3, 1).assets, SECONDS)
    unseen = [f for f in script if f.kind in MEANT and (f.asset, f.tag, f.kind, MEANT[f.kind]) not in seen]
    assert not unseen
    assert missing == {(f.asset, f.tag) for f in script if f.kind == "dropout"}
    assert repeated == sum(s.repeat for s in samples) > 0
    assert not alarms
