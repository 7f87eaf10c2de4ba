"""What a rescale of a running system takes, and whether every reading comes through it once. Criterion 2 of the replay.

    .venv/bin/python -m bench.rescale [--partitions 12] [--kill] [--assets 20] [--tags 50] [--rate-hz 1] [--out FILE]

Real services, connectors and agents with 4 partitions, half of the tags by MQTT, half by OPC UA. After `--before-s` of
load `twin rescale` runs; with `--kill` it is killed -9 once in each phase first, at a seeded moment, and run again.
Seconds per phase are from the first run's begin to the last one's end; while it is `switching` Kafka refuses readings.
At the end the checker compares every reading with the journal, all topics, states and InfluxDB. Leaves with 0 only if
the generations were equal and nothing is missing, repeated or altered.
"""

import argparse
import json
import random
import signal
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaException

from runtime.config import Kafka
from runtime.generations import PlanReader
from services.stack import Stack
from tests.faults.rig import Outcome, Rig
from tests.faults.system import Load, System, running

PHASES = ("building", "verifying", "switching")
KILL_AFTER_S = (0.0, 1.5)
PHASE_S = 600.0
FLOWS_S = 300.0
EQUAL = "are equal, byte for byte"


class Watch:
    """Follows the plan: which phase it is in, and for how many seconds it was in each."""

    def __init__(self, kafka: Kafka) -> None:
        self.phase = "settled"
        self.seconds: dict[str, float] = {}
        self._reader, self._ended = PlanReader(kafka), threading.Event()
        self._thread = threading.Thread(target=self._follow, name="watch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Follow no longer."""
        self._ended.set()
        self._thread.join()
        self._reader.close()

    def _follow(self) -> None:
        before_s = time.monotonic()
        while not self._ended.wait(0.05):
            with suppress(KafkaException):  # there is no plan before the first rescale
                plan = self._reader.newest(5.0)
                now_s = time.monotonic()
                self.seconds[self.phase] = self.seconds.get(self.phase, 0.0) + now_s - before_s
                before_s = now_s
                self.phase = "settled" if plan is None else plan.phase


def main() -> int:
    """Run, print, and 0 where all is well."""
    arguments = _arguments()
    with tempfile.TemporaryDirectory(prefix="twin-rescale-") as name:
        folder = Path(name)
        outcome = Outcome(row=0, title="rescale", seed=arguments.seed, short=True)  # short: patient, see Rig.limit_s
        rig = Rig(outcome, folder, random.Random(arguments.seed))
        load = Load(assets=arguments.assets, tags=arguments.tags, rate_hz=arguments.rate_hz)
        with Stack(folder / "services") as stack, running(rig, stack, load=load) as system:
            time.sleep(arguments.before_s)
            found = _rescaled(system, arguments.partitions, PHASES if arguments.kill else ())
            system.follow_topics()
            system.wait_flowing(FLOWS_S)
            system.finish()
    found |= {
        "readings_hz": load.assets * load.tags * load.rate_hz,
        "readings": outcome.readings,
        "missing": outcome.missing,
        "repeated": outcome.repeated,
        "altered": outcome.altered,
        "failures": outcome.failures,
    }
    print(json.dumps(found, indent=1))
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    return 0 if outcome.passed and outcome.readings else 1


def _rescaled(system: System, partitions: int, killed_in: tuple[str, ...]) -> dict[str, Any]:
    """Rescale, killed once in each of these phases; seconds per phase and what the last run said."""
    watch, command = Watch(system.plant.kafka), ("rescale", "--partitions", str(partitions))
    try:
        killed = [_killed(system, watch, phase, command) for phase in killed_in]
        began_s = time.monotonic()
        done = system.twin(*command)
        last_s = time.monotonic() - began_s
        print(done.stderr, flush=True)
        system.rig.require(done.returncode == 0 and EQUAL in done.stderr, f"the rescale came to its end: {done.stderr}")
        system.rig.wait_for(lambda: watch.phase == "settled", "the plan is settled", 30)
    finally:
        watch.close()
    seconds = {phase: round(watch.seconds.get(phase, 0.0), 1) for phase in PHASES}
    return {"killed_while": killed, "last_run_s": round(last_s, 1), "phases_s": seconds}


def _killed(system: System, watch: Watch, phase: str, command: tuple[str, ...]) -> str:
    """Begin or go on, and kill -9 a moment after the phase has begun; the phase it was in when it died."""
    process = system.start_twin(*command, log="rescale")
    try:
        system.rig.wait_for(lambda: watch.phase == phase or process.poll() is not None, phase, PHASE_S)
        time.sleep(system.rig.rng.uniform(*KILL_AFTER_S))
        assert process.poll() is None, f"ended before it was killed while {phase}: {system.log('rescale')}"
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    print(f"killed while {watch.phase}", flush=True)
    return watch.phase


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--partitions", type=int, default=12)
    parser.add_argument("--kill", action="store_true", help="kill -9 once in each phase, and go on")
    parser.add_argument("--before-s", type=float, default=30.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--assets", type=int, default=20)
    parser.add_argument("--tags", type=int, default=50)
    parser.add_argument("--rate-hz", type=float, default=1.0)
    parser.add_argument("--out", type=Path, default=None, help="the figures as JSON")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
