"""What the disk spool costs and gives: `.venv/bin/python -m bench.spool [DIRECTORY]`.

Prints, for frames of 100 readings: transactions and frames written per second (each transaction durable), and frames
per second read, decoded and deleted, as while draining. With `--kafka`, the drain into a real Kafka while new frames
arrive: input rate, drain rate, and the seconds until the spool is empty.
"""

import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from connectors.delivery import Delivery, Spooling
from connectors.spool import Spool
from runtime import config
from runtime.kafka import create_topics
from schemas.codec import decode, encode
from schemas.frames import Frame
from services.kafka import Kafka

READINGS = 100
ASSETS = 20
INPUT_PER_S = 500
AWAY_S = 15.0


def frame(asset: int, seq: int) -> Frame:
    """A frame of 100 readings."""
    now_ns = time.time_ns()
    times = np.full(READINGS, now_ns, "<i8") + np.arange(READINGS)
    return Frame(
        asset=f"R{asset}", source="bench", epoch=1, seq=seq, time_ns=now_ns,
        tags=tuple(f"tag{i}" for i in range(10)), units=("degC",) * 10,
        tag=(np.arange(READINGS) % 10).astype("<u2"),
        source_time_ns=times, server_time_ns=times, arrival_time_ns=times,
        value=np.random.default_rng(seq).normal(85, 1, READINGS), status=np.zeros(READINGS, "<u4"),
        mark=np.zeros(READINGS, "u1"),
    )  # fmt: skip


def storage(directory: Path) -> None:
    """Writing and reading alone."""
    spool = Spool(directory, "bench")
    spool.open(0)
    encoded = [("raw", f"R{i % ASSETS}", encode(frame(i % ASSETS, i))) for i in range(2000)]
    size = sum(len(value) for _, _, value in encoded) / len(encoded)
    for per_write in (1, ASSETS, 500):
        writes = min(200, 20_000 // per_write)
        begin = time.perf_counter()
        for n in range(writes):
            spool.append([encoded[(n + i) % len(encoded)] for i in range(per_write)], 0)
        took_s = time.perf_counter() - begin
        print(f"write {per_write:4} frames of {size:.0f} bytes at a time: "
              f"{writes / took_s:8.0f} writes/s {writes * per_write / took_s:8.0f} frames/s")  # fmt: skip
    rows, at = spool.rows, 0
    begin = time.perf_counter()
    while found := spool.read(at, 1000, 8 * 1024 * 1024):
        for row in found:
            decode(row.value)
        at = found[-1].id
        spool.delete(at)
    print(f"read, decode and delete: {rows / (time.perf_counter() - begin):8.0f} frames/s")
    spool.remove()


def drain(directory: Path) -> None:
    """Kafka away for 15 s at 500 frames/s, then back."""
    broker = Kafka(directory / "kafka", directory / "kafka.log")
    broker.start()
    broker.wait_ready(180)
    settings = config.Kafka(bootstrap=broker.bootstrap, prefix="bench", partitions=4)
    create_topics(settings)
    spooling = Spooling(directory=directory, connector_id="bench", limits=config.Spool(), drops=False)
    delivery = Delivery(settings, "connector.bench", None, spooling)
    sent = safe = 0

    def is_safe() -> None:
        nonlocal safe
        safe += 1

    def send_for(seconds: float, until_empty: bool = False) -> float:
        nonlocal sent
        begin = time.monotonic()
        number = 0
        while (now_s := time.monotonic() - begin) < seconds:
            while number < now_s * INPUT_PER_S:
                delivery.send(frame(sent % ASSETS, sent // ASSETS), is_safe)
                sent += 1
                number += 1
            if until_empty and not list(directory.glob("*.sqlite")):
                break
            time.sleep(0.01)
        return now_s

    send_for(2)
    broker.kill()
    send_for(AWAY_S)
    backlog = AWAY_S * INPUT_PER_S
    broker.start()
    broker.wait_ready(180)
    took_s = send_for(300, until_empty=True)
    rate = backlog / took_s + INPUT_PER_S
    print(f"input {INPUT_PER_S} frames/s ({INPUT_PER_S * READINGS} readings/s), Kafka away {AWAY_S:.0f} s: drained in "
          f"{took_s:.1f} s, {rate:.0f} frames/s, {rate / INPUT_PER_S:.1f} times the input")  # fmt: skip
    everything = delivery.close(30)
    broker.stop()
    print(f"sent {sent}, safe {safe}, closed with everything safe: {everything}")


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if not a.startswith("-")]
    with tempfile.TemporaryDirectory(dir=arguments[0] if arguments else None) as name:
        storage(Path(name))
        if "--kafka" in sys.argv:
            drain(Path(name))
