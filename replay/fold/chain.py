"""The chain: raw records of some partitions in, what the three stages make of them out. Pure: no clock, no Kafka.

As live: frame by frame, with the bytes that the agents give. Wide: neighbouring frames of an asset are joined before
the first stage, up to a number of readings; every reading's results are the same to the bit, a twin state comes per
joined frame, and one reading costs far less.
"""

from collections.abc import Iterable, Iterator, Sequence

from replay.fold.lane import Folded, Lane, Place, Step, rejection
from replay.sources.raw import Raw
from replay.sources.records import RawRecord
from runtime.partitions import misplaced
from schemas.codec import DecodeError, decode_as
from schemas.frames import Frame
from schemas.glimpse import Glimpser
from schemas.records import KEY_BYTES_MAX
from schemas.states import StageState

#: Readings in a joined frame: beyond this a frame costs no less per reading, and memory for nothing.
READINGS_MAX = 4096
#: Who rejects what cannot be decoded: the first stage.
FIRST = "validation"


class Chain:
    """Folds raw records. `partitions`: as configured, to know a misplaced record; `topic`: where they stood.

    `wide`: 0 for as live, else the number of readings up to which frames are joined. `states`: state after each stage,
    per asset, to begin from.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        *,
        topic: str,
        partitions: int,
        wide: int = 0,
        states: dict[str, Sequence[StageState]] | None = None,
    ) -> None:
        self._steps, self._topic, self._partitions, self._wide = steps, topic, partitions, wide
        self.lanes = {asset: Lane(asset, steps, kept) for asset, kept in (states or {}).items()}
        self._known: dict[tuple[bytes | None, int], tuple[Glimpser, Lane]] = {}

    def take(self, records: Iterable[RawRecord]) -> Iterator[Folded]:
        """Fold records, in the order of the log per partition. What is joined may come with a later call."""
        for record in records:
            try:
                raw, lane = self._seen(record)
            except DecodeError as error:
                yield self._rejected(record, str(error))
                continue
            if not self._wide:
                yield lane.single(raw, encoded=True)
            elif not lane.wait(raw):
                yield from lane.close()
                yield lane.single(raw)
            elif lane.readings >= self._wide:
                yield from lane.close()

    def ahead(self) -> list[str]:
        """Assets of which a later stage has applied what the one before it has not: results would be missing."""
        return sorted(asset for asset, lane in self.lanes.items() if lane.ahead())

    def close(self) -> Iterator[Folded]:
        """Fold what still waits to be joined."""
        for lane in self.lanes.values():
            yield from lane.close()

    def _seen(self, record: RawRecord) -> tuple[Raw, Lane]:
        """The frame of a record, if only at a glance, and the lane of its asset. Raises DecodeError."""
        key, partition, value = record.key, record.partition, record.value or b""
        known = self._known.get((key, partition))
        if known is not None:
            glimpser, lane = known
            glimpse = glimpser.read(value)
            if glimpse is not None:
                return Raw(self._topic, partition, record.offset, value, glimpse), lane
        frame = decode_as(value, Frame)
        wrong = misplaced(frame.asset, key, partition, self._partitions)
        if wrong is not None:
            raise DecodeError(wrong)
        if known is None:
            lane = self.lanes.get(frame.asset) or Lane(frame.asset, self._steps)
            self.lanes[frame.asset] = lane
            known = self._known[key, partition] = Glimpser(), lane
        if self._wide:
            known[0].learn(frame)
        return Raw(self._topic, partition, record.offset, value, frame), known[1]

    def _rejected(self, record: RawRecord, reason: str) -> Folded:
        value, key = record.value or b"", record.key or b""
        place = Place(self._topic, record.partition, record.offset)
        rejected = rejection(place, stage=FIRST, asset=key.decode("utf-8", "replace"), reason=reason, payload=value)
        return Folded(raws=(), rejected=[rejected], key=key[:KEY_BYTES_MAX])
