"""Results of a replay as points of InfluxDB: those of the live system, with the run's name as a further tag.

Lines are the sink's. What it sends to the rejected records ends a run instead, with the reason: a run either has all
its points or has failed. It has no `reactor_frame`: when a replay was stored tells nothing about the system.
"""

import asyncio
from collections.abc import Callable, Iterator

from queries.api import Queries, QueryError
from replay.fold.lane import Folded
from replay.results.writers import WriteError
from runtime.config import Plant
from schemas.codec import DecodeError, Record
from store.influx_writer import InfluxWriter
from store.line_protocol import UnstorableError, of_run
from store.record_lines import lines_of

#: How long InfluxDB may take to store a request, with all repetitions.
STORED_S = 120.0


def writer_of(plant: Plant, run: str) -> Callable[[], "PointsWriter"]:
    """Makes the writer of a worker. Raises WriteError where the name has points, or InfluxDB cannot be asked."""
    try:
        with Queries(plant.influxdb) as queries:
            there = queries.has_run(run)
    except (QueryError, OSError) as error:  # OSError: the token's file
        raise WriteError(f"--to-where influxdb: {error}") from error
    if there:
        raise WriteError(f"--run {run!r}: InfluxDB has points of it already; allowed is a name that is new")
    return lambda: PointsWriter(plant, run)


class PointsWriter:
    """Writes a partition's results, so many lines per request, one request after the other."""

    def __init__(self, plant: Plant, run: str) -> None:
        self._plant, self._run = plant, run
        self._loop = asyncio.Runner()
        self._lines: list[str] = []
        self._writer: InfluxWriter | None = None

    def begin(self, partition: int) -> None:
        """Make a client."""
        self._writer = InfluxWriter(self._plant.influxdb, self._plant.sink.timeout_s, _refused)

    def take(self, found: Folded) -> None:
        """Add a frame's points; send them where they are enough for a request. Raises WriteError."""
        for record in _records(found):
            try:
                lines, refused = lines_of(record)
                self._lines += of_run(lines, self._run)
            except (UnstorableError, DecodeError) as error:
                raise WriteError(f"InfluxDB cannot store a result of {found.key!r}: {error}") from error
            if refused:
                raise WriteError(f"InfluxDB cannot store a reading of {found.key!r}: {refused[0].reason}")
        if len(self._lines) >= self._plant.sink.batch_lines:
            self._loop.run(self._send())

    def end(self) -> None:
        """Wait until InfluxDB has everything, and disconnect. Raises WriteError."""
        self._loop.run(self._send(last=True))

    async def _send(self, *, last: bool = False) -> None:
        assert self._writer is not None
        lines, self._lines = self._lines, []
        at_once = self._plant.sink.batch_lines
        try:
            for start in range(0, len(lines), at_once):  # one frame may have more lines than a request takes
                await self._stored(self._writer, lines[start : start + at_once])
        except WriteError:
            last = True
            raise
        finally:
            if last:
                await self._writer.close()

    async def _stored(self, writer: InfluxWriter, lines: list[str]) -> None:
        """One request."""
        try:
            async with asyncio.timeout(STORED_S):
                unwanted = await writer.write(lines)
        except TimeoutError as error:
            raise WriteError(f"InfluxDB did not store {len(lines)} lines in {STORED_S:.0f} s") from error
        if unwanted:
            first = unwanted[0]
            raise WriteError(f"{len(unwanted)} lines: {first.reason}; the first: {lines[first.line][:200]!r}")


async def _refused(sentence: str) -> None:
    """The live sink waits until its token is good again; whoever waits for a run is told at once."""
    raise WriteError(sentence)


def _records(found: Folded) -> Iterator[Record]:
    """What the sink reads: estimates, states, alerts."""
    if found.estimates is not None:
        yield found.estimates
    if found.twin is not None:
        yield found.twin
        yield from found.twin.alerts
    yield from found.alerts
