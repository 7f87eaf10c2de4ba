"""`twin plant play`: data sets leave the plant as if it were measured now, with the data set's own times.

Speed counts in data time: 600 plays ten minutes in a second. Without a speed it goes as fast as the system takes it:
over MQTT as many messages are in flight as the window allows; over OPC UA the server writes what fits into the queues
of the monitored items and waits for the next publish response (see `plant.opcua_server`), so that no queue overflows.
"""

import heapq
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import chain, islice
from pathlib import Path

from plant import datasets
from plant.datasets import DataSet, Row
from plant.pump import Outside, Summary, Tick, pump
from plant.samples import Protocol, Sample

#: Most messages in flight per asset, flat out. What a broker buffers beyond that is for the consumer to take.
WINDOW = 100
#: Readings handed over at once, flat out.
CHUNK = 256
#: A data set has no hurry: it waits for a subscriber that is held up, rather than overrun its queue.
PATIENCE_S = 600.0


def play(
    files: Sequence[Path],
    *,
    protocol: Protocol = "mqtt",
    speed: float | None = None,
    asset: str | None = None,
    suffix: str = "",
    mqtt_host: str = "127.0.0.1",
    mqtt_port: int = 1883,
    opcua_url: str = "opc.tcp://127.0.0.1:4840",
    journal: Path | None = None,
    rows: int | None = None,
    subscribers_s: float = 30.0,
    linger_s: float = 10.0,
    certificate_dir: Path | None = None,
    stop: threading.Event | None = None,
) -> Summary:
    """Play data sets, all at once, and return what was sent.

    `speed`: times real time, None or 0: flat out. `asset`: instead of the name made from the file's (one file only).
    `suffix`: behind every asset's name, so that the same file can be played by two protocols at once.
    `rows`: only so many of each. The rest as in `plant.pump.Outside`. Raises ValueError for a file that is no data
    set or an asset that is there twice, OutletError when broker or server cannot be used.
    """
    if asset is not None and len(files) != 1:
        raise ValueError(f"asset {asset!r}: possible with one file only, there are {len(files)}")
    sets = [replace(s, asset=s.asset + suffix) for s in (datasets.load(path, asset) for path in files)]
    assets = [s.asset for s in sets]
    if len(set(assets)) < len(assets):
        raise ValueError(f"assets {assets}: every data set needs its own")
    start = 1 if protocol == "opcua" else 0  # a node's first value is the data set's first row
    first = [sample for s in sets for sample in _samples(s, s.rows[0], protocol)] if start else []

    def source(start_ns: int) -> Iterator[Tick]:
        timed = heapq.merge(*(_timed(s, protocol, start, rows) for s in sets), key=lambda item: item[0])
        if speed:
            for offset_s, samples in timed:
                yield Tick(due_ns=start_ns + round(offset_s / speed * 1e9), samples=samples)
        else:
            everything = chain.from_iterable(samples for _, samples in timed)
            while chunk := list(islice(everything, CHUNK)):
                yield Tick(due_ns=None, samples=chunk)

    outside = Outside(
        mqtt=(mqtt_host, mqtt_port) if protocol == "mqtt" else None,
        opcua_url=opcua_url if protocol == "opcua" else None,
        journal=journal,
        window=None if speed else WINDOW,
        subscribers_s=subscribers_s,
        linger_s=linger_s,
        patience_s=PATIENCE_S,
        certificate_dir=certificate_dir,
        stop=stop or threading.Event(),
    )
    return pump(source, first, assets if protocol == "mqtt" else (), outside)


def _timed(s: DataSet, protocol: Protocol, start: int, rows: int | None) -> Iterator[tuple[float, list[Sample]]]:
    """Rows with when they are due, in s of data time; by their number, because times may go back."""
    for i, row in enumerate(islice(s.rows, start, rows), start):
        yield i * s.interval_s, _samples(s, row, protocol)


def _samples(s: DataSet, row: Row, protocol: Protocol) -> list[Sample]:
    return [
        Sample(
            asset=s.asset,
            tag=tag,
            unit=unit,
            protocol=protocol,
            source_time_ns=row.source_time_ns,
            value=value,
            fault=row.fault,
        )
        for tag, unit, value in zip(s.tags, s.units, row.values, strict=True)
    ]
