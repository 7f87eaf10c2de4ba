"""How long a Kafka broker takes until it answers, with and without its classes kept as the JVM has parsed them.

    .venv/bin/python -m bench.kafka_start [--times 5]

Both in turn, on the same data folder. Wall and processor time of each start, median and range, and the ratio.
"""

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import psutil

from services.kafka import Kafka
from services.kafka_classes import keep_classes


def started(broker: Kafka) -> tuple[float, float]:
    """Start and stop; wall and processor time until it answered, s."""
    began_s = time.monotonic()
    broker.start()
    broker.wait_ready(120)
    wall_s = time.monotonic() - began_s
    used = psutil.Process(broker.pid).cpu_times()
    broker.stop()
    return wall_s, used.user + used.system


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5)
    times = parser.parse_args().times
    keep_classes()
    found: dict[str, list[tuple[float, float]]] = {"with": [], "without": []}
    with tempfile.TemporaryDirectory() as folder:
        broker = Kafka(Path(folder) / "kafka", Path(folder) / "kafka.log")
        started(broker)  # formats the folder
        for _ in range(times):
            for name, figures in found.items():
                broker.with_kept_classes = name == "with"
                figures.append(started(broker))
    print(f"{'':10} {'wall s':>22} {'processor s':>22}")
    for name, figures in found.items():
        cells = [f"{median(of):.2f} ({min(of):.2f}-{max(of):.2f})" for of in zip(*figures, strict=True)]
        print(f"{name:10} {cells[0]:>22} {cells[1]:>22}")
    medians = [[median(of) for of in zip(*figures, strict=True)] for figures in found.values()]
    ratios = [with_them / without for with_them, without in zip(*medians, strict=True)]
    print(f"{'ratio':10} {ratios[0]:>22.2f} {ratios[1]:>22.2f}")


if __name__ == "__main__":
    main()
