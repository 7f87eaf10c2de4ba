"""How long a frame takes to write and to read: byte columns against Avro arrays, side by side in one run.

.venv/bin/python -m bench.codec
"""

import io
import statistics
import time
from collections.abc import Callable

import fastavro
import numpy as np

from schemas.codec import decode, encode
from schemas.frames import Frame

READINGS = 500
ROUNDS = 15
CALLS = 200

ARRAYS = fastavro.parse_schema(
    {
        "type": "record",
        "name": "Arrays",
        "fields": [
            {"name": name, "type": {"type": "array", "items": kind}}
            for name, kind in [
                ("tag", "int"), ("source", "long"), ("server", "long"), ("arrival", "long"),
                ("value", "double"), ("status", "long"), ("mark", "int"),
            ]
        ],
    }
)  # fmt: skip


def frame() -> Frame:
    """A frame of READINGS readings of ten tags."""
    now = time.time_ns()
    return Frame(
        asset="R101",
        source="mqtt-1",
        epoch=now,
        seq=0,
        time_ns=now,
        tags=tuple(f"temperature_{i}" for i in range(10)),
        units=("degC",) * 10,
        tag=(np.arange(READINGS) % 10).astype("<u2"),
        source_time_ns=now + np.arange(READINGS, dtype="<i8"),
        server_time_ns=np.zeros(READINGS, "<i8"),
        arrival_time_ns=now + np.arange(READINGS, dtype="<i8"),
        value=np.random.default_rng(1).normal(85, 1, READINGS),
        status=np.zeros(READINGS, "<u4"),
        mark=np.zeros(READINGS, "u1"),
    )


def as_arrays(f: Frame) -> bytes:
    """The same readings as Avro arrays."""
    out = io.BytesIO()
    names = ("tag", "source_time_ns", "server_time_ns", "arrival_time_ns", "value", "status", "mark")
    columns = [getattr(f, name).tolist() for name in names]
    fields = ("tag", "source", "server", "arrival", "value", "status", "mark")
    fastavro.schemaless_writer(out, ARRAYS, dict(zip(fields, columns, strict=True)))
    return out.getvalue()


def microseconds(call: Callable[[], object]) -> tuple[float, float]:
    """Median and spread (half the range between quartiles) of one call, over ROUNDS rounds."""
    times = []
    for _ in range(ROUNDS):
        begin = time.perf_counter()
        for _ in range(CALLS):
            call()
        times.append((time.perf_counter() - begin) / CALLS * 1e6)
    low, middle, high = statistics.quantiles(times, n=4)
    return middle, (high - low) / 2


def main() -> None:
    """Print one line per case."""
    f = frame()
    columns, arrays = encode(f), as_arrays(f)
    for name, call in [
        ("columns, write", lambda: encode(f)),
        ("columns, read", lambda: decode(columns)),
        ("arrays, write", lambda: as_arrays(f)),
        ("arrays, read", lambda: fastavro.schemaless_reader(io.BytesIO(arrays), ARRAYS, None)),
    ]:
        middle, spread = microseconds(call)
        print(f"{name:16} {middle:7.1f} µs ± {spread:.1f} for {READINGS} readings")


if __name__ == "__main__":
    main()
