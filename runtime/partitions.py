"""Which partition a key belongs to, computed from the configured number of partitions and never from what Kafka says.

Kafka's clients follow a topic that was given more partitions and would send an asset's next frame elsewhere.
"""

from functools import lru_cache

_M = 0x5BD1E995
_MASK = 0xFFFFFFFF


@lru_cache(maxsize=100_000)  # asked for every frame, of as many keys as there are assets
def home_partition(key: bytes, partitions: int) -> int:
    """The partition of a key: murmur2, as Java's and aiokafka's default and `murmur2_random` in confluent-kafka."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def misplaced(asset: str, key: bytes | None, partition: int, partitions: int) -> str | None:
    """What is wrong with an asset's frame under this key in this partition; None where nothing is.

    An asset's frames must share one partition, else its state would be in two places.
    """
    if key != asset.encode():
        return f"key {key!r}: allowed is the frame's asset {asset!r}"
    home = home_partition(key, partitions)
    if home != partition:
        return f"asset {asset!r} in partition {partition}: allowed is {home} (murmur2)"
    return None


def _murmur2(data: bytes) -> int:
    """Kafka's 32-bit hash, as unsigned number."""
    length = len(data)
    h = 0x9747B28C ^ length
    whole = length & ~3
    for i in range(0, whole, 4):
        k = int.from_bytes(data[i : i + 4], "little") * _M & _MASK
        h = (h * _M ^ (k ^ k >> 24) * _M) & _MASK
    if rest := data[whole:]:
        h = (h ^ int.from_bytes(rest, "little")) * _M & _MASK
    h = (h ^ h >> 13) * _M & _MASK
    return h ^ h >> 15
