"""What a replay reads: records of the raw topic, wherever they are kept."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple


class RawRecord(NamedTuple):
    """A record of raw as it stands in Kafka; `time_ms` is Kafka's time of it, ms since 1970."""

    partition: int
    offset: int
    time_ms: int
    key: bytes | None
    value: bytes | None


#: What every source gives: per partition in the order of offsets, in batches of any size.
Batches = Iterator[Sequence[RawRecord]]
