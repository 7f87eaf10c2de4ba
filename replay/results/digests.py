"""Digests of what a stage gave: two runs with equal ones gave the same to the bit.

As live the digest is over the bytes of every output, each preceded by its length (u32, little-endian). Wide it is over
what every reading got, however readings were cut into frames: comparable between wide runs, and not with as live ones.
"""

import struct
from functools import lru_cache
from hashlib import blake2b
from typing import Any

import numpy as np
from numpy.typing import NDArray

from replay.fold.lane import Folded
from schemas.frames import EstimateFrame, ValidatedFrame, columns_of

SIZE = 16
LENGTH = struct.Struct("<I")
STAGES = ("validation", "estimation", "twin")
VALIDATED = tuple(name for name in columns_of(ValidatedFrame) if name != "tag")
#: What estimation adds or changes.
ESTIMATED = ("flag", "tests", *(set(columns_of(EstimateFrame)) - set(columns_of(ValidatedFrame))))


class OfBytes:
    """Over outputs of one stage and asset, in order."""

    def __init__(self) -> None:
        self._hash = blake2b(digest_size=SIZE)
        self.outputs = 0

    def update(self, data: bytes) -> None:
        """One more output."""
        self._hash.update(LENGTH.pack(len(data)) + data)
        self.outputs += 1

    def hexdigest(self) -> str:
        """The digest so far."""
        return self._hash.hexdigest()


class OfReadings:
    """Over the readings of one stage and asset, in order: a digest per column, and one over those."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = [(name, blake2b(digest_size=SIZE)) for name in sorted(columns)]
        self._names, self._texts = blake2b(digest_size=SIZE), blake2b(digest_size=SIZE)
        self.outputs = 0

    def update(self, frame: ValidatedFrame) -> None:
        """The readings of one more frame."""
        for name, digest in self._columns:
            digest.update(getattr(frame, name).tobytes())
        self._names.update(names(frame.tags, frame.units)[frame.tag].tobytes())
        for row, text in frame.texts.items():
            self._texts.update(f"{self.outputs + row} {text!r}".encode())
        self.outputs += len(frame)

    def hexdigest(self) -> str:
        """The digest so far."""
        parts = [digest.digest() for _, digest in self._columns]
        return blake2b(b"".join([*parts, self._names.digest(), self._texts.digest()]), digest_size=SIZE).hexdigest()


class OfTwin:
    """Over the alerts and windows of one asset's twin, and its last state without the frame it belongs to."""

    def __init__(self) -> None:
        self._alerts, self._windows = blake2b(digest_size=SIZE), blake2b(digest_size=SIZE)
        self._last: Any = ()
        self.outputs = 0

    def update(self, twin: Any) -> None:
        """One more state."""
        for record in twin.alerts:
            self._alerts.update(repr(record).encode())
        for record in twin.windows:
            self._windows.update(repr(record).encode())
        self._last = (twin.time_ns, twin.clock_ns, twin.variables, twin.model_states, twin.prediction, twin.readings)
        self.outputs += 1

    def hexdigest(self) -> str:
        """The digest so far."""
        parts = self._alerts.digest() + self._windows.digest() + repr(self._last).encode()
        return blake2b(parts, digest_size=SIZE).hexdigest()


@lru_cache(4096)
def names(tags: tuple[str, ...], units: tuple[str, ...]) -> NDArray[np.uint64]:
    """A number per entry of a dictionary that depends on tag and unit alone."""
    pairs = (f"{tag}\0{unit}".encode() for tag, unit in zip(tags, units, strict=True))
    return np.array([int.from_bytes(blake2b(pair, digest_size=8).digest(), "little") for pair in pairs], np.uint64)


class Digests:
    """The digests of some assets. `wide`: over readings, else over bytes."""

    def __init__(self, *, wide: bool) -> None:
        self._wide = wide
        self._of: dict[str, tuple[Any, Any, Any]] = {}

    def take(self, found: Folded) -> None:
        """What came out of one frame."""
        if not found.raws:
            return
        asset = found.key.decode()
        of = self._of.get(asset)
        if of is None:
            of = (OfReadings(VALIDATED), OfReadings(ESTIMATED), OfTwin()) if self._wide else _of_bytes()
            self._of[asset] = of
        outputs = (found.validated, found.estimates, found.twin) if self._wide else found.encoded
        for digest, output in zip(of, outputs, strict=False):
            if output is not None:
                digest.update(output)

    def as_dict(self) -> dict[str, dict[str, str]]:
        """Asset → stage → digest."""
        return {
            asset: {stage: digest.hexdigest() for stage, digest in zip(STAGES, of, strict=True)}
            for asset, of in sorted(self._of.items())
        }


def _of_bytes() -> tuple[OfBytes, OfBytes, OfBytes]:
    return OfBytes(), OfBytes(), OfBytes()
