"""How fast a replay is: a day of 1,000 sensors at 1 Hz, or less, through all kernels, several times.

    KAFKA_BOOTSTRAP=host:port .venv/bin/python -m bench.replay [--hours 24] [--times 5] [--workers 2]

A generator fills a raw topic with frames of one second (`--assets` times `--tags` readings), dated as if they had come
at 1 Hz; without KAFKA_BOOTSTRAP a broker of its own is started. Each replay is a process of its own, from nothing and
wide. Printed per replay and as median with range: readings/s, multiples of real time, CPU of our processes, memory.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from confluent_kafka import Producer

from replay.run import Request, replay
from runtime.config import Kafka, Plant
from runtime.kafka import client_settings, create_topics
from runtime.partitions import home_partition
from schemas.codec import encode
from schemas.frames import Frame
from schemas.topics import RAW
from services.stack import Stack

SECOND_NS = 1_000_000_000
KINDS = (("temperature", "degC", 80.0), ("pressure", "kPa", 300.0), ("flow_rate", "m3/h", 12.0), ("level", "%", 50.0))


def main() -> None:
    """Fill, replay, print."""
    arguments = _arguments()
    if arguments.one is not None:
        _one(arguments)
        return
    with tempfile.TemporaryDirectory(prefix="twin-bench-") as folder:
        stack = Stack(Path(folder))
        try:
            if "KAFKA_BOOTSTRAP" not in os.environ:
                stack.start("kafka")
                os.environ["KAFKA_BOOTSTRAP"] = stack.kafka.bootstrap
            _measure(arguments, folder)
        finally:
            stack.stop()


def _measure(arguments: argparse.Namespace, folder: str) -> None:
    prefix = arguments.prefix or f"bench-replay-{os.getpid()}"
    kafka = Kafka(prefix=prefix, partitions=arguments.partitions)
    if create_topics(kafka):
        _fill(kafka, arguments)
    runs = []
    for n in range(arguments.times):
        command = [sys.executable, "-m", "bench.replay", "--one", f"{folder}/{n}.json", *sys.argv[1:]]
        subprocess.run([*command, "--prefix", prefix], check=True)
        runs.append(json.loads(Path(f"{folder}/{n}.json").read_text()))
        counts = runs[-1]["counts"]
        if counts["readings"] != counts["records"] * arguments.tags:
            raise SystemExit(f"{counts['readings']} readings replayed of {counts['records'] * arguments.tags}")
        print(_line(runs[-1]), flush=True)
    for name in ("readings_per_s", "times_real", "cpu_s", "memory_bytes", "us_per_reading"):
        values = [run[name] for run in runs]
        print(f"  {name:16} median {statistics.median(values):,.2f}  ({min(values):,.2f}…{max(values):,.2f})")


def _one(arguments: argparse.Namespace) -> None:
    """One replay, in this process and its workers."""
    plant = Plant(kafka=Kafka(prefix=arguments.prefix, partitions=arguments.partitions))
    request = Request(
        plant=plant,
        begin="beginning",
        end="now",
        run=f"bench-{os.getpid()}",
        to=arguments.to,
        out=Path(arguments.one).parent,
        workers=arguments.workers,
        frames=arguments.frames,
    )
    result = replay(request)
    found = {
        "counts": asdict(result.counts),
        "readings_per_s": result.readings_per_s,
        "times_real": result.times_real,
        "wall_s": result.wall_s,
        "cpu_s": result.cpu_s,
        "us_per_reading": result.cpu_s / result.counts.readings * 1e6,
        "memory_bytes": result.memory_bytes,
    }
    Path(arguments.one).write_text(json.dumps(found))


def _line(run: dict[str, float]) -> str:
    return (
        f"  {run['readings_per_s']:,.0f} readings/s, {run['times_real']:,.0f} times real time, {run['wall_s']:.1f} s, "
        f"CPU {run['cpu_s']:.1f} s ({run['us_per_reading']:.2f} us a reading), {run['memory_bytes'] / 2**20:,.0f} MiB"
    )


def _fill(kafka: Kafka, arguments: argparse.Namespace) -> None:
    """Frames of every asset for every second; random walks with noise, as a plant at rest has."""
    topic = RAW.full_name(kafka.prefix)
    # Idempotent: else batches sent again change places, and a frame behind a later one counts as applied.
    producer = Producer(
        {**client_settings(kafka), "linger.ms": 50, "compression.type": "lz4", "enable.idempotence": True}
    )
    rng = np.random.default_rng(1)
    names = [(f"{kind}_{n:02}", unit) for n in range(arguments.tags) for kind, unit, _ in [KINDS[n % len(KINDS)]]]
    middle = np.array([KINDS[n % len(KINDS)][2] for n in range(arguments.tags)])
    assets = [f"R{n:03}" for n in range(arguments.assets)]
    homes = [home_partition(asset.encode(), arguments.partitions) for asset in assets]
    level = np.tile(middle, (arguments.assets, 1))
    begun, seconds = time.monotonic(), round(arguments.hours * 3600)
    first = time.time_ns() // SECOND_NS - seconds  # not older: Kafka would delete it at once
    for second in range(seconds):
        level += rng.normal(0, 0.01, level.shape)
        values = level + rng.normal(0, 0.1, level.shape)
        for asset, home, row in zip(assets, homes, values, strict=True):
            data = encode(_frame(asset, names, second, (first + second) * SECOND_NS, row))
            at_ms = (first + second) * 1000
            _send(producer, topic=topic, asset=asset, data=data, partition=home, at_ms=at_ms)
    assert producer.flush(120) == 0
    count = seconds * arguments.assets * arguments.tags
    print(f"{count:,} readings in {seconds * arguments.assets:,} frames made in {time.monotonic() - begun:.0f} s")


def _frame(asset: str, names: list[tuple[str, str]], seq: int, now_ns: int, values: np.ndarray) -> Frame:
    n = len(values)
    return Frame(
        asset=asset,
        source="bench",
        epoch=1,
        seq=seq,
        time_ns=now_ns + 60_000_000,
        tags=tuple(tag for tag, _ in names),
        units=tuple(unit for _, unit in names),
        tag=np.arange(n, dtype="<u2"),
        source_time_ns=np.full(n, now_ns, "<i8"),
        server_time_ns=np.zeros(n, "<i8"),
        arrival_time_ns=now_ns + np.arange(n, dtype="<i8") * 1_000_000,
        value=values.astype("<f8"),
        status=np.zeros(n, "<u4"),
        mark=np.zeros(n, "u1"),
    )


def _send(producer: Producer, *, topic: str, asset: str, data: bytes, partition: int, at_ms: int) -> None:
    while True:
        try:
            producer.produce(topic, data, asset.encode(), partition, timestamp=at_ms)
        except BufferError:
            producer.poll(0.1)
        else:
            producer.poll(0)
            return


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--assets", type=int, default=20)
    parser.add_argument("--tags", type=int, default=50)
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--partitions", type=int, default=16)
    parser.add_argument("--frames", choices=("as-live", "wide"), default="wide")
    parser.add_argument("--to", choices=("none", "parquet"), default="none")
    parser.add_argument("--prefix", default=None, help="topics that an earlier fill has left")
    parser.add_argument("--one", default=None, help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
