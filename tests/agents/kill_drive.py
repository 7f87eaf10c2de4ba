"""Kill or stop workers at random while frames flow, then audit outputs and states, bit for bit.

usage: python -m tests.agents.kill_drive MODE STAGE WORKERS SECONDS SEED
MODE is `kill` (-9) or `stop` (SIGSTOP for longer than the session, then SIGCONT: a zombie); STAGE is `counting` or
`validation`; needs KAFKA_BOOTSTRAP. Prints one line of figures and fails if anything is wrong.
"""

import itertools
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

from confluent_kafka import Consumer, Producer, TopicPartition

from runtime.config import Kafka
from runtime.exit_codes import RESTART_ME
from runtime.kafka import client_settings, create_topics, watermarks
from schemas.codec import encode
from schemas.frames import Frame
from schemas.topics import RAW, VALIDATED, app_id
from tests.agents.counting import frame
from tests.agents.kill_audit import Figures, audit

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
ASSETS = tuple(f"R{n}" for n in range(16))
#: Where a worker is killed besides at random times: right after outputs, right after the rows, right before the ack.
FAIL_POINTS = ("outputs", "rows", "ack")
DRAIN_S = 60.0
FRAMES_PER_S = 400
STOP_S = 8.0  # two seconds longer than a session


class Workers:
    """The worker processes of one run."""

    def __init__(self, kafka: Kafka, stage: str, count: int, folder: Path) -> None:
        self._kafka, self._stage, self._folder = kafka, stage, folder
        self.figures = Figures(stage=stage, workers=count, seed=0)
        self.logs = [folder / f"worker-{n}.log" for n in range(count)]
        self.reasons: list[str] = []
        self._log_begins = [0] * count
        self.processes = [self.start(n) for n in range(count)]

    def start(self, n: int, fail_point: str = "") -> "subprocess.Popen[bytes]":
        """Start worker n."""
        command = [sys.executable, "-m", "tests.agents.stage_worker", self._kafka.address, self._kafka.prefix]
        command += [self._stage, f"partitions={self._kafka.partitions}"]
        environment = {**os.environ, "FAIL_POINT": fail_point, "PYTHONPATH": str(ROOT)}
        with self.logs[n].open("ab") as log:
            self._log_begins[n] = log.tell()
            return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)

    def owns_partitions(self, n: int) -> bool:
        """Whether worker n has begun to read."""
        return b" reading " in self.logs[n].read_bytes()[self._log_begins[n] :]

    def revive(self) -> None:
        """Start again whoever has ended: by a guard, or at a fail point."""
        for n, process in enumerate(self.processes):
            code = process.poll()
            if code is None:
                continue
            if code == RESTART_ME:
                self.figures.left += 1
                self.reasons += [line for line in self.logs[n].read_text().splitlines() if " CRITICAL " in line][-1:]
            elif code == -signal.SIGKILL:
                self.figures.fail_point_kills += 1
            else:
                raise AssertionError(f"worker {n} ended with {code}:\n{self.logs[n].read_text()[-3000:]}")
            self.processes[n] = self.start(n)

    def kill(self, n: int, fail_point: str) -> None:
        """Kill -9 and start anew, to die at `fail_point` where that is not empty."""
        self.processes[n].kill()
        self.processes[n].wait()
        self.figures.kills += 1
        self.processes[n] = self.start(n, fail_point)

    def stop(self) -> None:
        """Stop them all."""
        for process in self.processes:
            process.send_signal(signal.SIGCONT)
            process.terminate()
        for process in self.processes:
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.figures.seeks = sum(log.read_text().count("seeking back") for log in self.logs)


class Feed:
    """Writes frames into raw and reads how many outputs there are."""

    def __init__(self, kafka: Kafka, rng: random.Random) -> None:
        self._kafka, self._rng = kafka, rng
        self._producer = Producer(
            {**client_settings(kafka), "enable.idempotence": True, "partitioner": "murmur2_random", "linger.ms": 5}
        )
        self._next = dict.fromkeys(ASSETS, 0)
        self._reader = Consumer({**client_settings(kafka), "group.id": app_id("validation", kafka.prefix)})
        self.sent: list[Frame] = []

    def send(self, count: int) -> None:
        """Some frames of random assets; now and then one comes twice."""
        for _ in range(count):
            asset = self._rng.choice(ASSETS)
            made = frame(asset, self._next[asset])
            self._next[asset] += 1
            self.sent.append(made)
            for _ in range(2 if self._rng.random() < 0.01 else 1):
                self._producer.produce(RAW.full_name(self._kafka.prefix), encode(made), asset.encode())
        self._producer.poll(0)

    def for_a_moment(self, seconds: float = 0.05) -> None:
        """Send at the usual rate."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.send(FRAMES_PER_S // 20)
            time.sleep(0.05)

    def flush(self) -> None:
        """Wait until Kafka has all of it."""
        assert self._producer.flush(30) == 0

    def outputs(self) -> int:
        """Records the workers have written."""
        return self.size(VALIDATED.full_name(self._kafka.prefix))

    def lag(self) -> int:
        """Records of raw that the workers have not acknowledged."""
        raw = [TopicPartition(RAW.full_name(self._kafka.prefix), p) for p in range(self._kafka.partitions)]
        return self.size(raw[0].topic) - sum(max(tp.offset, 0) for tp in self._reader.committed(raw, timeout=10))

    def size(self, topic: str) -> int:
        """Records in a topic."""
        return sum(watermarks(self._reader, topic, p)[1] for p in range(self._kafka.partitions))


def run(kafka: Kafka, mode: str, stage: str, workers: int, seconds: float, *, seed: int) -> Figures:
    """One run; the figures still have to be judged."""
    rng = random.Random(seed)
    create_topics(kafka)
    feed = Feed(kafka, rng)
    with tempfile.TemporaryDirectory() as folder:
        crew = Workers(kafka, stage, workers, Path(folder))
        try:
            _wait_for_output(feed, crew)
            (_kill_while_feeding if mode == "kill" else _stop_while_feeding)(crew, feed, seconds, rng)
            feed.flush()
            _wait_until_done(feed, crew)
        finally:
            crew.stop()
            print(*crew.reasons, sep="\n", file=sys.stderr)
    figures = crew.figures
    figures.seed, figures.sent = seed, len(feed.sent)
    audit(kafka, stage, feed.sent, figures)
    return figures


def _kill_while_feeding(crew: Workers, feed: Feed, seconds: float, rng: random.Random) -> None:
    """Kill -9 after random times; some of those started anew die at a fail point."""
    points = itertools.cycle(FAIL_POINTS)
    now = time.monotonic()
    end, next_kill, waiting, seen = now + seconds, now + rng.uniform(1, 3), 0.0, 0
    while now < end:
        feed.for_a_moment()
        crew.revive()
        now = time.monotonic()
        if waiting and feed.outputs() > seen:
            crew.figures.slowest_recovery_s = max(crew.figures.slowest_recovery_s, now - waiting)
            waiting, next_kill = 0.0, now + rng.uniform(1, 5)
        elif not waiting and now > next_kill:
            victim = rng.randrange(len(crew.processes))
            crew.kill(victim, f"{next(points)}:{rng.randint(1, 3)}" if rng.random() < 0.4 else "")
            time.sleep(0.2)  # what was on its way arrives
            crew.figures.kills_under_load += feed.lag() > 0
            seen, waiting = feed.outputs(), now


def _stop_while_feeding(crew: Workers, feed: Feed, seconds: float, rng: random.Random) -> None:
    """SIGSTOP one worker until another one has taken over, then SIGCONT, and wait until it has left."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        n = rng.randrange(len(crew.processes))
        zombie = crew.processes[n]
        while not crew.owns_partitions(n):
            feed.for_a_moment()
        feed.for_a_moment(rng.uniform(1, 3))
        zombie.send_signal(signal.SIGSTOP)
        feed.for_a_moment(STOP_S)
        zombie.send_signal(signal.SIGCONT)
        crew.figures.stops += 1
        woken = time.monotonic()
        while zombie.poll() is None and time.monotonic() < woken + STOP_S:
            feed.for_a_moment()
        crew.revive()


def _wait_for_output(feed: Feed, crew: Workers) -> None:
    begun = time.monotonic()
    while feed.outputs() == 0:
        feed.send(2)
        time.sleep(0.2)
        assert time.monotonic() - begun < 60, crew.logs[0].read_text()[-3000:]


def _wait_until_done(feed: Feed, crew: Workers) -> None:
    """Until the workers have acknowledged all of raw."""
    begun = time.monotonic()
    while feed.lag() > 0:
        crew.revive()
        time.sleep(0.5)
        if time.monotonic() - begun > DRAIN_S:
            break  # the audit says what is missing


def main() -> int:
    """See the module's docstring."""
    mode, stage, workers, seconds, seed = sys.argv[1:]
    kafka = Kafka(prefix=f"kill-{os.getpid()}-{int(time.time())}", partitions=PARTITIONS)
    figures = run(kafka, mode, stage, int(workers), float(seconds), seed=int(seed))
    print(" ".join(f"{name}={value}" for name, value in asdict(figures).items()))
    return 1 if figures.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
