"""The one decorator of jitted loops: compiled on first use, kept on disk beside the source.

No fastmath, so that the same loop gives the same bits with NUMBA_DISABLE_JIT=1. A jitted function may only call jitted
functions of its own file: numba's disk cache does not notice a change in another one. Nor does it notice damage: a cut
file would end the process at every start, and a flipped bit would be run. So our files end with a checksum, and one
that is not what was written counts as not there.
"""

import pickle  # nosec B403
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar, cast

import numba
from numba.core.caching import IndexDataCacheFile

F = TypeVar("F", bound=Callable[..., Any])
CHECKSUM_BYTES = 4


def jit(function: F) -> F:
    """The compiled function, with the type of the plain one. Takes positional arguments."""
    compiled = numba.njit(cache=True)(function)
    cache = getattr(compiled, "_cache", None)  # there is none where the JIT is off
    if cache is not None:
        plain = cache._cache_file
        cache._cache_file = CheckedFile(plain._cache_path, cache._impl.filename_base, plain._source_stamp)
    return cast(F, compiled)


class CheckedFile(IndexDataCacheFile):  # type: ignore[misc]  # numba has no types for mypy
    """Numba's files of one function, index and compiled code, with checksums. What cannot be used is made anew."""

    def _load_index(self) -> dict[Any, str]:
        try:
            version, stamp, overloads = self._read(self._index_path)
        except OSError:
            return {}
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads: dict[Any, str]) -> None:
        self._write(self._index_path, (self._version, self._source_stamp, overloads))

    def _load_data(self, name: str) -> Any:
        return self._read(self._data_path(name))

    def _save_data(self, name: str, data: Any) -> None:
        self._write(self._data_path(name), data)

    def _read(self, path: str) -> Any:
        """What was written. Raises OSError, which numba takes for a file that is not there, where it is damaged."""
        data = Path(path).read_bytes()
        body, checksum = data[:-CHECKSUM_BYTES], data[-CHECKSUM_BYTES:]
        if _checksum(body) != checksum:
            raise OSError(f"{path} is damaged")
        # Numba's own format, of what this user compiled, beside the source it belongs to.
        return pickle.loads(body)  # nosec B301

    def _write(self, path: str, content: Any) -> None:
        body = self._dump(content)
        with self._open_for_write(path) as file:
            file.write(body + _checksum(body))


def _checksum(data: bytes) -> bytes:
    return zlib.crc32(data).to_bytes(CHECKSUM_BYTES, "little")
