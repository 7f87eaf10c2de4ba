"""A connector without a field, for tests: sends frames through `Delivery` and says on stdout which are safe.

python -m tests.connectors.spool_worker BOOTSTRAP PREFIX DIRECTORY LIMITS(json) DROPS(0/1) FRAMES_PER_S FRAMES

Lines: `ready EPOCH`, `ASSET SEQ` for a frame that is safe, `ill PART REASON`, `closed True|False` after stdin ended.
"""

import json
import sys
import threading
import time
from pathlib import Path

from connectors.delivery import Delivery, Spooling
from connectors.framer import Framer, Reading
from runtime import logs
from runtime.config import Framing, Kafka, Spool
from runtime.health import Health

ASSETS = 5
READINGS = 10  # per frame


def main() -> None:
    """Send until stdin ends."""
    bootstrap, prefix, directory, limits, drops, rate, most = sys.argv[1:]
    logs.configure("worker")
    epoch = time.time_ns()
    framer = Framer("w", epoch, Framing(linger_s=0))
    spooling = Spooling(
        directory=Path(directory), connector_id="w", limits=Spool(**json.loads(limits)), drops=drops == "1"
    )
    delivery = Delivery(Kafka(bootstrap=bootstrap, prefix=prefix, partitions=4), "connector.test", Health(), spooling)
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    print(f"ready {epoch}", flush=True)
    number = 0
    start_s = time.monotonic()
    while not ended.is_set():
        while number < min(int(most), (time.monotonic() - start_s) * float(rate)):
            asset = f"A{number % ASSETS}"
            now_ns = time.time_ns()
            for i in range(READINGS):
                value = number * READINGS + i
                framer.add(
                    Reading(
                        asset=asset, tag="t", unit="", value=value, source_time_ns=now_ns + i, arrival_time_ns=now_ns
                    ),
                    now_ns,
                )
            for frame, _ in framer.due(now_ns, flush=True):
                said = f"{frame.asset} {frame.seq}\n"
                delivery.send(frame, lambda said=said: (sys.stdout.write(said), sys.stdout.flush()))  # type: ignore[misc]
            number += 1
        ended.wait(0.01)
    print(f"closed {delivery.close(10)}", flush=True)


if __name__ == "__main__":
    main()
