"""Frames by identity: what was seen of each, in 16 bytes, so that a million of them stay small.

A stream is the frames of one asset, source and epoch; their seq counts from 0 without holes, so it is an index.
"""

from array import array
from collections.abc import Iterator
from hashlib import blake2b
from typing import NamedTuple

from schemas.frames import Identity

DIGEST_BYTES = 8
NONE = bytes(DIGEST_BYTES)
NOWHERE = -1
#: Frames that a stream may skip at once; a larger seq is no hole, but a number that was damaged.
HOLE_MAX = 1_000_000


class Key(NamedTuple):
    """A stream's name."""

    asset: str
    source: str
    epoch: int


def digest(data: bytes) -> bytes:
    """What the bytes of a record are recognised by."""
    return blake2b(data, digest_size=DIGEST_BYTES).digest()


def key_of(identity: Identity) -> Key:
    """The stream of a frame."""
    return Key(identity.asset, identity.source, identity.epoch)


def named(key: Key, seq: int) -> str:
    """A frame in words."""
    return f"{key.asset}, {key.source}, epoch {key.epoch}, seq {seq}"


class Stream:
    """Per seq the digest of the frame's bytes and its place in its topic (NOWHERE: not seen)."""

    __slots__ = ("digests", "places")

    def __init__(self) -> None:
        self.digests = bytearray()
        self.places = array("q")

    def __len__(self) -> int:
        return len(self.places)

    def reach(self, length: int) -> None:
        """Make room for so many frames."""
        more = length - len(self.places)
        if more > 0:
            self.digests.extend(bytes(more * DIGEST_BYTES))
            self.places.extend([NOWHERE] * more)

    def seen(self, seq: int) -> bool:
        """Whether the frame was seen."""
        return seq < len(self.places) and self.places[seq] != NOWHERE

    def put(self, seq: int, data_digest: bytes, place: int) -> None:
        """Note a frame."""
        self.reach(seq + 1)
        self.digests[seq * DIGEST_BYTES : (seq + 1) * DIGEST_BYTES] = data_digest
        self.places[seq] = place

    def digest(self, seq: int) -> bytes:
        """Digest of a frame; zeros where it was not seen."""
        return bytes(self.digests[seq * DIGEST_BYTES : (seq + 1) * DIGEST_BYTES]) or NONE

    def unseen(self) -> Iterator[int]:
        """Every seq that was not seen before a later one."""
        return (seq for seq, place in enumerate(self.places) if place == NOWHERE)
