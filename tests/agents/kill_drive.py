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
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition

from agents.changelog import recover, unpack
from agents.settings import kernel_settings
from kernels.stages import STAGES, Entry
from runtime.config import Kafka, Plant
from runtime.exit_codes import RESTART_ME
from runtime.kafka import client_settings, create_topics
from schemas.codec import decode, decode_as, encode
from schemas.frames import Frame, Identity
from schemas.states import StageState
from schemas.topics import CHANGELOGS, RAW, VALIDATED, app_id
from tests.agents.counting import COUNTING, frame

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
ASSETS = tuple(f"R{n}" for n in range(16))
#: Where a worker is killed besides at random times: right after outputs, right after the rows, right before the ack.
FAIL_POINTS = ("outputs", "rows", "ack")
DRAIN_S = 60.0
FRAMES_PER_S = 400
STOP_S = 8.0  # two seconds longer than a session


FAULTS = ("missing", "conflicting", "wrong", "misplaced", "wrong_states")


@dataclass
class Figures:
    """What a run did and what came out of it."""

    stage: str
    workers: int
    seed: int
    sent: int = 0
    kills: int = 0
    kills_under_load: int = 0
    fail_point_kills: int = 0
    stops: int = 0
    left: int = 0
    outputs: int = 0
    missing: int = 0
    repeated: int = 0
    conflicting: int = 0
    wrong: int = 0
    misplaced: int = 0
    wrong_states: int = 0
    slowest_recovery_s: float = 0.0
    seeks: int = 0

    def faults(self) -> dict[str, int]:
        """What must be zero."""
        return {n: getattr(self, n) for n in FAULTS if getattr(self, n)}


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
        while True:
            try:
                return sum(
                    self._reader.get_watermark_offsets(TopicPartition(topic, p), timeout=10)[1]
                    for p in range(self._kafka.partitions)
                )
            except KafkaException:  # a topic just made has no leader yet
                time.sleep(0.1)


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


def records(kafka: Kafka, topic: str) -> Iterator[tuple[int, bytes, bytes]]:
    """(partition, key, value) of all records of a topic, per partition in order."""
    consumer = Consumer({**client_settings(kafka), "group.id": "unused", "enable.partition.eof": True})
    consumer.assign([TopicPartition(topic, p, 0) for p in range(kafka.partitions)])
    open_partitions = set(range(kafka.partitions))
    while open_partitions:
        for message in consumer.consume(1000, 0.1):
            error = message.error()
            if error is None:
                yield message.partition(), message.key(), message.value()
            elif error.code() == KafkaError._PARTITION_EOF:
                open_partitions.discard(message.partition())
    consumer.close()


def audit(kafka: Kafka, stage: str, sent: list[Frame], figures: Figures) -> None:
    """Compare outputs and states with a fold of the same stage over the same frames in one process."""
    expected, states = folded(stage, sent)
    seen: dict[Any, bytes] = {}
    last: dict[str, int] = {}
    homes: dict[bytes, int] = {key: p for p, key, _ in records(kafka, RAW.full_name(kafka.prefix))}
    for partition, key, value in records(kafka, VALIDATED.full_name(kafka.prefix)):
        out = decode(value)
        assert isinstance(out, Frame)
        figures.outputs += 1
        figures.misplaced += homes[key] != partition
        if out.identity in seen:
            figures.repeated += 1
            figures.conflicting += seen[out.identity] != value
            continue
        # The first appearance of a frame must follow that of its predecessor, else the next stage drops it.
        figures.misplaced += out.seq != last.get(out.asset, -1) + 1
        last[out.asset] = out.seq
        seen[out.identity] = value
        figures.wrong += value != expected.get(out.identity)
    figures.missing = len(expected.keys() - seen.keys())
    changelog = next(t for t in CHANGELOGS if t.name == "validation").full_name(kafka.prefix)
    rows = recover(kafka, changelog, range(kafka.partitions), lambda read: None).rows
    figures.wrong_states = sum(unpack(rows[a.encode()]).state != state for a, state in states.items())


def folded(stage: str, sent: list[Frame]) -> tuple[dict[Identity, bytes], dict[str, StageState]]:
    """Output bytes per identity and final state per asset, by folding the stage over the frames as sent."""
    entry = Entry(COUNTING, lambda settings: None) if stage == "counting" else STAGES[stage]
    params = entry.params_from(kernel_settings(Plant()))
    states: dict[str, StageState] = {}
    outputs = {}
    for made in sent:
        received = decode_as(encode(made), Frame)
        state = states.get(made.asset) or entry.stage.initial(made.asset)
        states[made.asset], out, _ = entry.stage.step(state, received, params)
        outputs[made.identity] = encode(out)
    return outputs, states


def main() -> int:
    """See the module's docstring."""
    mode, stage, workers, seconds, seed = sys.argv[1:]
    kafka = Kafka(prefix=f"kill-{os.getpid()}-{int(time.time())}", partitions=PARTITIONS)
    figures = run(kafka, mode, stage, int(workers), float(seconds), seed=int(seed))
    print(" ".join(f"{name}={value}" for name, value in asdict(figures).items()))
    return 1 if figures.faults() else 0


if __name__ == "__main__":
    sys.exit(main())
