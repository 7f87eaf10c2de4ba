"""A record of raw that a stage can take: what is known of its frame at once, and the frame when it is asked for."""

from schemas.codec import decode_as
from schemas.frames import Frame
from schemas.glimpse import Glimpse


class Raw:
    """Where it stood, its bytes, its frame's identity and number of readings, and whether it is plain.

    Plain: it has readings of a connected source, and may be joined with others. `glimpse` where it was not decoded.
    """

    __slots__ = ("_frame", "epoch", "glimpse", "n", "offset", "partition", "plain", "seq", "source", "topic", "value")

    def __init__(self, topic: str, partition: int, offset: int, value: bytes, seen: Frame | Glimpse) -> None:
        self.topic, self.partition, self.offset, self.value = topic, partition, offset, value
        self.source, self.epoch, self.seq = seen.source, seen.epoch, seen.seq
        if isinstance(seen, Glimpse):
            self.glimpse: Glimpse | None = seen
            self._frame: Frame | None = None
            self.n, self.plain = seen.n, True
        else:
            self.glimpse, self._frame = None, seen
            self.n, self.plain = len(seen), seen.kind == "readings" and seen.connected

    @property
    def frame(self) -> Frame:
        """The frame, decoded."""
        if self._frame is None:
            self._frame = decode_as(self.value, Frame)
        return self._frame

    @property
    def tags(self) -> tuple[str, ...]:
        """The tags of its dictionary."""
        return self.frame.tags if self.glimpse is None else self.glimpse.names.tags

    @property
    def units(self) -> tuple[str, ...]:
        """The unit of each tag."""
        return self.frame.units if self.glimpse is None else self.glimpse.names.units

    @property
    def time_ns(self) -> int:
        """The connector's clock when the frame was closed, ns since 1970."""
        return self.frame.time_ns if self.glimpse is None else self.glimpse.time_ns
