"""Is a replay what ran live, to the byte, after kills and rebalances? Criterion 1 of the replay.

    .venv/bin/python -m bench.exactness --minutes 30 --seed 1 [--assets 20] [--tags 50] [--rate-hz 1] [--out FILE]

Real services, connectors and agents under the supervisor. In rounds, in seeded order: kill -9 of every stage and of
both connectors, and a second worker of a stage that joins, does everything alone while the first one is dead, and
leaves. Then raw is replayed with 1 and with 4 workers, as live, and `twin compare` looks at every frame of every stage.
Leaves with 0 only if all is equal, every process was killed and a rebalance moved partitions.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from replay.results.digests import STAGES
from services.stack import Stack
from tests.faults.rig import Outcome, Rig
from tests.faults.system import CONNECTORS, Load, System, running

WORKERS = (1, 4)
REBALANCE = "rebalance"
VICTIMS = (*STAGES, *CONNECTORS)
PAUSE_S = (2.0, 10.0)
PATIENCE_S = 180.0
ASSIGNED = "twin_assigned_partitions"


def main() -> int:
    """Run live, replay, compare, print. 0: all is equal, and everything was struck."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="twin-exactness-") as name:
        folder = Path(name)
        outcome = Outcome(row=0, title="exactness", seed=arguments.seed, short=True)  # short: patient, see Rig.limit_s
        rig = Rig(outcome, folder, random.Random(arguments.seed))
        load = Load(assets=arguments.assets, tags=arguments.tags, rate_hz=arguments.rate_hz)
        with Stack(folder / "services") as stack, running(rig, stack, load=load) as system:
            struck = _strike(system, arguments.minutes * 60)
            sent = system.stop_load()["sent"]
            system.drain()
            with system.silent():
                replays = [_replayed(system, workers) for workers in WORKERS]
    untouched = [name for name in (*VICTIMS, REBALANCE) if not struck[name]]
    found = {
        "equal": all(replay["result"] == "equal" for replay in replays) and not untouched,
        "seed": arguments.seed,
        "minutes": arguments.minutes,
        "sent": sent,
        "struck": dict(struck),
        "untouched": untouched,
        "replays": replays,
    }
    _print(found)
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0 if found["equal"] else 1


def _strike(system: System, seconds: float) -> Counter[str]:
    """Whole rounds of blows until the time is over, at least one; how often each landed."""
    rng, struck, end_s = system.rig.rng, Counter[str](), time.monotonic() + seconds
    while time.monotonic() < end_s:
        for name in rng.sample((*VICTIMS, REBALANCE), len(VICTIMS) + 1):
            time.sleep(rng.uniform(*PAUSE_S))
            if name == REBALANCE:
                _rebalance(system, rng.choice(STAGES), struck)
            else:
                system.kill(name)
                struck[name] += 1
            system.wait_flowing(PATIENCE_S)
        print(f"{max(0.0, end_s - time.monotonic()):5.0f} s left, struck so far: {dict(struck)}", flush=True)
    return struck


def _rebalance(system: System, stage: str, struck: Counter[str]) -> None:
    """A second worker takes partitions of the first, then all of them while the first is dead, and leaves."""
    alone = system.metric(stage, ASSIGNED)
    with system.worker(stage, within_s=PATIENCE_S) as second:

        def shared() -> bool:
            first, other = system.metric(stage, ASSIGNED), second.metric(ASSIGNED)
            return bool(first and other) and first + other == alone  # type: ignore[operator]

        system.rig.wait_for(shared, f"two workers of {stage} share its partitions", PATIENCE_S)
        system.kill(stage)
        struck[stage] += 1
        system.wait_flowing(PATIENCE_S)
    system.rig.wait_for(
        lambda: system.metric(stage, ASSIGNED) == alone, f"{stage} has its partitions again", PATIENCE_S
    )
    struck[REBALANCE] += 1


def _replayed(system: System, workers: int) -> dict[str, Any]:
    """Replay all that ran and compare it; what `twin compare` says, and how long both took."""
    run, began_s = f"exact-{workers}", time.monotonic()
    span = ("--from", "beginning", "--to", "now", "--frames", "as-live")
    _done(system.twin("replay", *span, "--workers", str(workers), "--run", run), allowed=(0,))
    replay_s, began_s = time.monotonic() - began_s, time.monotonic()
    compared = _done(system.twin("compare", system.plant.kafka.prefix, run, "--json"), allowed=(0, 1, 2))
    found: dict[str, Any] = json.loads(compared.stdout)
    return {
        "workers": workers,
        "result": found["result"],
        "replay_s": round(replay_s, 1),
        "compare_s": round(time.monotonic() - began_s, 1),
        "assets": len({line["asset"] for line in found["assets"]}),
        "frames": {s: sum(line["frames"][0] for line in found["assets"] if line["stage"] == s) for s in STAGES},
        "partitions": found["partitions"],
        "found": found["found"],
        "first": found["first"],
    }


def _done(process: "subprocess.CompletedProcess[str]", allowed: tuple[int, ...]) -> "subprocess.CompletedProcess[str]":
    assert process.returncode in allowed, process.stderr
    return process


def _print(found: dict[str, Any]) -> None:
    print(f"sent {found['sent']} in {found['minutes']:g} min; struck {found['struck']}")
    if found["untouched"]:
        print(f"NOT STRUCK: {', '.join(found['untouched'])}")
    print(f"{'stage':11} {'partition':>9} {'live':32} " + " ".join(f"{_workers(n):32}" for n in WORKERS))
    for lines in zip(*(replay["partitions"] for replay in found["replays"]), strict=True):
        runs = " ".join(line["run"] for line in lines)
        print(f"{lines[0]['stage']:11} {lines[0]['partition']:9} {lines[0]['live']} {runs}")
    for replay in found["replays"]:
        print(
            f"{_workers(replay['workers'])}: {replay['result']}; replayed in {replay['replay_s']} s, "
            f"compared in {replay['compare_s']} s; {replay['assets']} assets, frames {replay['frames']}"
        )
        for text in replay["found"]:
            print(f"  {text}")
    print("EQUAL" if found["equal"] else "NOT EQUAL, OR NOT STRUCK")


def _workers(number: int) -> str:
    return f"{number} worker{'' if number == 1 else 's'}"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--assets", type=int, default=20)
    parser.add_argument("--tags", type=int, default=50)
    parser.add_argument("--rate-hz", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=None, help="everything as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
