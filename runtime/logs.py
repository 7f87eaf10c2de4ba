"""Logs: one line per event to standard error, time in UTC, the process's name, no secrets."""

import logging
import sys
import time


def configure(process: str, level: int = logging.INFO) -> None:
    """Send this process's log to standard error, each line `time level process logger: message`."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter(
        f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process} %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("aiokafka", "faust", "mode", "asyncua", "asyncio"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))
