"""What one agent costs and how long a frame takes through it: idle CPU, CPU per frame, latency, start-up.

usage: KAFKA_BOOTSTRAP=host:port python -m bench.agents [STAGE] [FRAMES_PER_S] [SECONDS] [checkpoint_s=N] [gather_s=N]
Starts one worker (as the kill tests do), leaves it idle for a while, then feeds it steadily; a reader of the output
topic takes the latency from the hand-over of a frame to Kafka until its output is read.
"""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
from confluent_kafka import Consumer, Producer, TopicPartition

from runtime.config import Kafka
from runtime.kafka import client_settings, create_topics
from schemas.codec import decode, encode
from schemas.frames import Frame
from schemas.topics import RAW, VALIDATED
from tests.agents.counting import frame

ROOT = Path(__file__).parents[1]
ASSETS = tuple(f"R{n}" for n in range(125))
IDLE_S = 15.0
Sent = dict[tuple[str, int], float]
PARTITIONS = 16


def main() -> int:
    """See the module's docstring."""
    stage = sys.argv[1] if len(sys.argv) > 1 else "validation"
    rate = float(sys.argv[2]) if len(sys.argv) > 2 else 125.0
    seconds = float(sys.argv[3]) if len(sys.argv) > 3 else 20.0
    kafka = Kafka(prefix=f"bench-{os.getpid()}-{int(time.time())}", partitions=PARTITIONS)
    create_topics(kafka)
    sent: Sent = {}
    latencies: list[float] = []
    stopping = threading.Event()
    reader = threading.Thread(target=_read, args=(kafka, sent, latencies, stopping), daemon=True)
    reader.start()
    producer = Producer({**client_settings(kafka), "partitioner": "murmur2_random", "linger.ms": 2})
    command = [sys.executable, "-m", "tests.agents.stage_worker", kafka.address, kafka.prefix, stage]
    begun = time.monotonic()
    worker = subprocess.Popen(
        [*command, f"partitions={PARTITIONS}", *sys.argv[4:]], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    try:
        _send(producer, kafka, sent, ASSETS[0], 0)
        while not latencies:
            time.sleep(0.01)
        print(f"start to first output: {time.monotonic() - begun:.1f} s")
        time.sleep(2)
        process = psutil.Process(worker.pid)
        print(f"idle: {_cpu(process, lambda: time.sleep(IDLE_S)):.2f} % of a core")
        latencies.clear()
        share = _cpu(process, lambda: _feed(producer, kafka, sent, rate, seconds))
        time.sleep(2)
        p50, p99 = np.percentile(latencies, [50, 99]) * 1000
        print(f"{stage}: {rate:.0f} frames/s: {share:.1f} % of a core, {share / 100 / rate * 1e6:.0f} us a frame")
        print(f"latency p50 {p50:.0f} ms, p99 {p99:.0f} ms, worst {max(latencies) * 1000:.0f} ms", end="; ")
        print(f"{len(latencies)} of {int(rate * seconds)} frames; {process.memory_info().rss / 1e6:.0f} MB")
    finally:
        stopping.set()
        worker.terminate()
        print(f"exit code {worker.wait(15)}")
    return 0


def _cpu(process: psutil.Process, work: Callable[[], None]) -> float:
    before, begun = process.cpu_times(), time.monotonic()
    work()
    after = process.cpu_times()
    return 100 * (after.user + after.system - before.user - before.system) / (time.monotonic() - begun)


def _send(producer: Producer, kafka: Kafka, sent: Sent, asset: str, seq: int) -> None:
    data = encode(frame(asset, seq, readings=8))
    sent[asset, seq] = time.monotonic()
    producer.produce(RAW.full_name(kafka.prefix), data, asset.encode())
    producer.poll(0)


def _feed(producer: Producer, kafka: Kafka, sent: Sent, rate: float, seconds: float) -> None:
    begun = time.monotonic()
    for n in range(int(rate * seconds)):
        wait = begun + n / rate - time.monotonic()
        if wait > 0:
            time.sleep(wait)
        _send(producer, kafka, sent, ASSETS[n % len(ASSETS)], 1 + n // len(ASSETS))


def _read(kafka: Kafka, sent: Sent, latencies: list[float], stopping: threading.Event) -> None:
    consumer = Consumer({**client_settings(kafka), "group.id": "unused", "fetch.wait.max.ms": 100})
    consumer.assign([TopicPartition(VALIDATED.full_name(kafka.prefix), p, 0) for p in range(PARTITIONS)])
    while not stopping.is_set():
        message = consumer.poll(0.5)
        if message is None or message.error() is not None:
            continue
        out = decode(message.value())
        assert isinstance(out, Frame)
        latencies.append(time.monotonic() - sent[out.asset, out.seq])
    consumer.close()


if __name__ == "__main__":
    sys.exit(main())
