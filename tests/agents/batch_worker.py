"""A worker process for the tests: batches of records are written to a file, a line per record.

usage: python -m tests.agents.batch_worker BOOTSTRAP PREFIX FILE [handle_s=SECONDS] [watchdog_s=SECONDS]
`handle_s`: how long each batch takes, as if a database were slow. A record `poison` is rejected; at a record `bomb`
the function raises.
"""

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

from agents.stage import Received, heartbeat, reject, run_tableless
from runtime import logs
from runtime.config import Plant
from schemas.records import Rejected
from schemas.topics import ALERTS, RAW


def main() -> int:
    """See the module's docstring."""
    bootstrap, prefix, file, *rest = sys.argv[1:]
    logs.configure("batches")
    options = {name: float(value) for name, value in (part.split("=") for part in rest)}
    plant = Plant.model_validate(
        {
            "kafka": {"bootstrap": bootstrap, "prefix": prefix, "partitions": 4},
            "agents": {"watchdog_s": options.get("watchdog_s", 20), "checkpoint_s": 0.5},
            "sink": {"batch_frames": 50},
        }
    )

    out = Path(file).open("a", buffering=1)  # noqa: SIM115 (for as long as the process lives)

    async def handle(batch: Sequence[Received]) -> None:
        slowly = asyncio.get_running_loop().time() + options.get("handle_s", 0)
        while asyncio.get_running_loop().time() < slowly:
            heartbeat()
            await asyncio.sleep(0.5)
        for record in batch:
            if record.value == b"bomb":
                raise ValueError("bomb")
            if record.value == b"poison":
                await reject(Rejected(stage="sink", reason="poison", asset=record.key.decode(), payload=b"poison"))
            out.write(f"{record.topic.name} {record.partition} {record.offset} {record.value.decode()}\n")

    async def on_stop() -> None:
        out.write("closed\n")

    return run_tableless(plant, "sink", (RAW, ALERTS), handle, on_stop=on_stop)


if __name__ == "__main__":
    sys.exit(main())
