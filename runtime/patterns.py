"""Which names two patterns (`fnmatch`: `*`, `?`, `[…]`) have in common. May not know: what the patterns are for."""

import re
from collections.abc import Callable, Iterable, Iterator
from fnmatch import fnmatchcase
from functools import lru_cache
from itertools import combinations_with_replacement

#: A set in brackets, or one character; a bracket that is not closed stands for itself.
_TOKEN = re.compile(r"\[!?\]?[^\]]*\]|.", re.DOTALL)
#: Stands where any character would do: one that no name and no pattern has.
ANY = "\N{REPLACEMENT CHARACTER}"


def together(patterns: Iterable[str]) -> list[tuple[tuple[str, ...], str]]:
    """Which patterns, in order, match one name together, and such a name; the fewest patterns first.

    Looked for are names that one pattern or two of them match, and as few others as can be: see `common`.
    """
    every = list(patterns)
    names = (common(one, other) for one, other in combinations_with_replacement(every, 2))
    found = {tuple(p for p in every if fnmatchcase(name, p)): name for name in names if name is not None}
    return sorted(found.items(), key=lambda entry: len(entry[0]))


def problems(patterns: Iterable[str], look: Callable[[tuple[str, ...], str], list[str]]) -> list[str]:
    """What `look` says of patterns that match a name together, and of that name; of those that contain patterns which
    are wrong already it is not asked.
    """
    found: list[str] = []
    blamed: list[set[str]] = []
    for group, name in together(patterns):
        if any(fewer <= set(group) for fewer in blamed):
            continue
        if said := look(group, name):
            blamed.append(set(group))
            found += said
    return found


def named(table: str, group: Iterable[str]) -> str:
    """Patterns of a table that match together, for a sentence: `tags."*/a" with "R1/*"`."""
    return f"{table}." + " with ".join(f'"{pattern}"' for pattern in group)


def common(one: str, other: str) -> str | None:
    """A name that both patterns match, with ANY where both leave it open, so that it matches few others; else None.

    Walks both patterns at once, depth first. A place (i, j) that led nowhere is not tried again.
    """
    a, b = _TOKEN.findall(one), _TOKEN.findall(other)
    tried: set[tuple[int, int]] = set()
    ahead = [(0, 0, "")]
    while ahead:
        i, j, name = ahead.pop()
        if (i, j) == (len(a), len(b)):
            return name
        if (i, j) in tried:
            continue
        tried.add((i, j))
        ahead += reversed(list(_steps(a, b, i, j, name)))
    return None


def _steps(a: list[str], b: list[str], i: int, j: int, name: str) -> Iterator[tuple[int, int, str]]:
    """Where a walk can go on from (i, j), the least particular names first. A star takes characters, then ends."""
    star_a, star_b = a[i : i + 1] == ["*"], b[j : j + 1] == ["*"]
    if star_a and star_b:
        yield from ((i + 1, j + 1, name + ANY), (i + 1, j, name + ANY), (i, j + 1, name + ANY))
        return
    if i < len(a) and j < len(b):
        both = _character("?" if star_a else a[i], "?" if star_b else b[j])
        if both is not None:
            yield i + (not star_a), j + (not star_b), name + both
    if star_a:
        yield i + 1, j, name
    if star_b:
        yield i, j + 1, name


@lru_cache(4096)
def _character(one: str, other: str) -> str | None:
    """A character that both tokens match. What a set matches changes only at, or just behind, one that it names."""
    near = (c for named in one + other for c in (named, chr(min(ord(named) + 1, 0x10FFFF))))
    return next((c for c in (ANY, *near) if fnmatchcase(c, one) and fnmatchcase(c, other)), None)
