"""Where stages meet Faust. This module and what it is built from know Faust's dangers; nobody else has to.

`run_stage` folds one of the kernels' stages over a topic, effectively once. `run_tableless` hands batches of records to
a function and acknowledges them when it returns.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from runtime.config import Plant
from schemas.records import Alert, Rejected
from schemas.topics import Topic


@dataclass(frozen=True, slots=True)
class Received:
    """One record as it was read."""

    topic: Topic
    partition: int
    offset: int
    key: bytes
    value: bytes


Handle = Callable[[Sequence[Received]], Awaitable[None]]


def run_tableless(
    plant: Plant,
    name: str,
    sources: Sequence[Topic],
    handle: Handle,
    *,
    on_stop: Callable[[], Awaitable[None]] | None = None,
) -> int:
    """Hand records of `sources` to `handle` in batches of up to `plant.sink.batch_frames`, gathered within
    `plant.sink.within_s`, until SIGTERM or SIGINT; return the exit code.

    Per partition, records come in the order of their offsets, each at least once. A batch is acknowledged after
    `handle` returned, never before; `handle` is called in the process's event loop and never twice at a time. It
    retries by itself, for ever, whatever it depends on, and calls `heartbeat()` while it does. An exception from it
    ends the process without acknowledging (exit code RESTART_ME). `on_stop` is awaited in the same loop at the end.
    """
    raise NotImplementedError


async def reject(rejected: Rejected) -> None:
    """Send to the topic of rejected records; returns when Kafka has it. Only inside `handle`."""
    raise NotImplementedError


async def alert(alert: Alert) -> None:
    """Send to the topic of alerts; returns when Kafka has it. Only inside `handle` (the sink cannot reach InfluxDB)."""
    raise NotImplementedError


def heartbeat() -> None:
    """Tell the watchdog that waiting is on purpose: call it at least every few seconds while retrying."""
    raise NotImplementedError
