"""What one stage has put out, of a running system or of a run: per frame 16 bytes, its digest and its place.

A frame that comes again with the same bytes is the same frame; with other bytes it is a fault. May not know: the other
side of a comparison.
"""

from array import array
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import NamedTuple

from replay.sources.topic import Reader
from schemas.codec import DecodeError, decode_as, identity_of
from schemas.frames import EstimateFrame, Frame, Identity, ValidatedFrame
from schemas.records import TwinState
from schemas.topics import ESTIMATES, STATE, VALIDATED, Topic

#: The stages in the order of the flow, and where each puts its outputs.
OUTPUTS: dict[str, Topic] = {"validation": VALIDATED, "estimation": ESTIMATES, "twin": STATE}
TYPES: dict[str, type[Frame | TwinState]] = {
    "validation": ValidatedFrame,
    "estimation": EstimateFrame,
    "twin": TwinState,
}
PAGE = 1024
NOWHERE = -1
DIGEST_BYTES = 8


class Key(NamedTuple):
    """A stream: the frames of an asset, source and epoch, told apart by their seq."""

    asset: str
    source: str
    epoch: int


class Page:
    """PAGE frames of a stream: digests of their bytes, and their offsets (NOWHERE: not seen)."""

    __slots__ = ("digests", "places")

    def __init__(self) -> None:
        self.digests = array("Q", bytes(8 * PAGE))
        self.places = array("q", [NOWHERE]) * PAGE


class Fault(NamedTuple):
    """Something wrong on one side alone: `kind` is "unreadable", "conflicting" or "in two partitions"."""

    kind: str
    asset: str | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filter:
    """Which frames count: of these assets, and of these times (ns since 1970, `end_ns` not included). None: all."""

    assets: frozenset[str] | None = None
    start_ns: int | None = None
    end_ns: int | None = None

    @property
    def is_timed(self) -> bool:
        """Whether times matter."""
        return self.start_ns is not None or self.end_ns is not None

    def has_time(self, time_ns: int) -> bool:
        """Whether a frame of this time counts."""
        return (self.start_ns is None or time_ns >= self.start_ns) and (self.end_ns is None or time_ns < self.end_ns)


@dataclass(slots=True)
class Outputs:
    """All outputs of a stage, by identity."""

    topic: str
    stage: str
    streams: dict[Key, dict[int, Page]] = field(default_factory=dict)
    partition_of: dict[str, int] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    records: int = 0
    repeated: int = 0

    def add(self, partition: int, offset: int, value: bytes, wanted: Filter) -> None:
        """Take in a record."""
        self.records += 1
        where = f"{self.topic} {partition}/{offset}"
        try:
            identity, counts = self._counting(value, wanted)
        except DecodeError as error:
            self.faults.append(Fault("unreadable", None, f"{where}: {error}"))
            return
        if not counts or (wanted.assets is not None and identity.asset not in wanted.assets):
            return
        home = self.partition_of.setdefault(identity.asset, partition)
        if home != partition:
            text = f"{where}: {identity.asset} is also in partition {home}"
            self.faults.append(Fault("in two partitions", identity.asset, text))
            return
        page = self._page(Key(*identity[:3]), identity.seq // PAGE)
        index, found = identity.seq % PAGE, digest(value)
        if page.places[index] == NOWHERE:
            page.places[index], page.digests[index] = offset, found
        elif page.digests[index] == found:
            self.repeated += 1
        else:
            text = f"{where}: {named(identity)} came again with other bytes, first at offset {page.places[index]}"
            self.faults.append(Fault("conflicting", identity.asset, text))

    def _page(self, key: Key, number: int) -> Page:
        pages = self.streams.setdefault(key, {})
        page = pages.get(number)
        if page is None:
            page = pages[number] = Page()
        return page

    def _counting(self, value: bytes, wanted: Filter) -> tuple[Identity, bool]:
        """A record's identity, and whether its time counts."""
        if not wanted.is_timed:
            return identity_of(value, TYPES[self.stage]), True
        record = decode_as(value, TYPES[self.stage])
        return record.identity, wanted.has_time(time_of(record))


def time_of(record: Frame | TwinState) -> int:
    """The time that a frame is found by, ns since 1970: when the connector closed it; of a state, its arrival clock."""
    return record.clock_ns if isinstance(record, TwinState) else record.time_ns


def digest(value: bytes) -> int:
    """What the bytes of a record are recognised by."""
    return int.from_bytes(blake2b(value, digest_size=DIGEST_BYTES).digest(), "little")


def named(identity: Identity) -> str:
    """A frame in words."""
    return f"{identity.asset}, {identity.source}, epoch {identity.epoch}, seq {identity.seq}"


def outputs_of(
    reader: Reader, prefix: str, stage: str, wanted: Filter, progress: Callable[[int], object] = lambda _: None
) -> Outputs:
    """Read a stage's outputs, up to where they end now. Raises KafkaException, SourceError."""
    topic = OUTPUTS[stage].full_name(prefix)
    found = Outputs(topic, stage)
    for batch in reader.read(topic, reader.spans(topic)):
        for record in batch:
            found.add(record.partition, record.offset, record.value or b"", wanted)
        progress(len(batch))
    return found


def runs_of(values: Collection[int]) -> Iterator[tuple[int, int]]:
    """Ascending numbers as (first, last) of those that follow each other."""
    first = last = None
    for value in values:
        if first is None or last is None:
            first = value
        elif value != last + 1:
            yield first, last
            first = value
        last = value
    if first is not None and last is not None:
        yield first, last
