"""Which asset and which tag an MQTT topic names.

Pure. The rule, in this order:

1. A topic `<anything>/<asset>/sensor/<tag…>` names its second level as asset and everything after `sensor/` as tag,
   with its `/` kept. The default filter `reactor/+/sensor/#` and its static shards (`reactor/R101/sensor/#`) are so.
2. Otherwise the filter decides: the levels that its wildcards stand for are, in order, the asset and (all further ones,
   joined by `/`) the tag. With one wildcard the asset is the level before it; without any, asset and tag are the last
   two levels.

Names are made of 1 to 200 characters, none of them a control character or a line or paragraph separator.
"""

import unicodedata
from collections.abc import Sequence
from typing import NamedTuple

NAME_CHARS_MAX = 200
_FORBIDDEN = {"Cc", "Cs", "Zl", "Zp"}


class TopicError(ValueError):
    """The topic names no asset and tag. The message says why."""


class Names(NamedTuple):
    """What a topic names."""

    asset: str
    tag: str


def names_in(topic: bytes, filters: Sequence[str]) -> Names:
    """Asset and tag of a topic under the first filter that matches. Raises TopicError."""
    try:
        levels = topic.decode().split("/")
    except UnicodeDecodeError as error:
        raise TopicError(f"topic is no valid UTF-8 at byte {error.start}") from error
    for pattern in filters:
        wild = _wild_levels(levels, pattern.split("/"))
        if wild is not None:
            return _checked(*_split(levels, wild))
    raise TopicError(f"topic matches none of the filters {', '.join(filters)}")


def _wild_levels(levels: Sequence[str], pattern: Sequence[str]) -> list[int] | None:
    """Indices of the levels that wildcards stand for; None where the topic does not match."""
    wild: list[int] = []
    for i, wanted in enumerate(pattern):
        if wanted == "#":
            if i == len(levels):
                raise TopicError("topic ends before the tag")
            return wild + list(range(i, len(levels)))
        if i >= len(levels) or (wanted not in ("+", levels[i])):
            return None
        if wanted == "+":
            wild.append(i)
    return wild if len(levels) == len(pattern) else None


def _split(levels: Sequence[str], wild: Sequence[int]) -> tuple[str, str]:
    if len(levels) > 3 and levels[2] == "sensor":
        return levels[1], "/".join(levels[3:])
    if len(wild) >= 2:
        return levels[wild[0]], "/".join(levels[i] for i in wild[1:])
    tag = wild[0] if wild else len(levels) - 1
    if tag < 1:
        raise TopicError("topic has no level for the asset")
    return levels[tag - 1], levels[tag]


def _checked(asset: str, tag: str) -> Names:
    for kind, name in (("asset", asset), ("tag", tag)):
        if not 1 <= len(name) <= NAME_CHARS_MAX:
            raise TopicError(f"{kind} in the topic has {len(name)} characters, allowed are 1…{NAME_CHARS_MAX}")
        if any(unicodedata.category(c) in _FORBIDDEN for c in name):
            raise TopicError(f"{kind} in the topic, {name!a}, contains a control character")
    return Names(asset, tag)
