"""Which names two patterns have in common."""

from fnmatch import fnmatchcase
from itertools import product

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from runtime.patterns import ANY, common, together

patterns = st.lists(st.sampled_from(("*", "?", "a", "b", "[ab]", "[!a]", "[")), max_size=5).map("".join)
NAMES = ["".join(name) for n in range(6) for name in product(f"ab[{ANY}", repeat=n)]


@settings(max_examples=200, deadline=None)
@given(patterns, patterns)
@example("*ab*", "*ba*")
@example("*", "")
@example("*", "[b-a]")
def test_two_patterns_have_a_name_in_common_where_one_exists(one: str, other: str) -> None:
    """Against all names of up to five characters: none is missed, and what is found is matched by both."""
    found = common(one, other)
    if found is None:
        assert not [name for name in NAMES if fnmatchcase(name, one) and fnmatchcase(name, other)]
    else:
        assert fnmatchcase(found, one)
        assert fnmatchcase(found, other)


@pytest.mark.parametrize(
    ("one", "other", "name"),
    [
        ("R1*", "R?01", "R101"),
        ("*/x", "R1/*", f"R1/{ANY}/x"),
        ("R*", "R*1", f"R{ANY}1"),
        ("[a-m]", "[!a-l]", "m"),
        ("a", "b", None),
    ],
)
def test_the_name_is_like_no_other(one: str, other: str, name: str | None) -> None:
    """Where both leave a character open it is one that no other pattern names."""
    assert common(one, other) == name


def test_patterns_that_match_together_come_with_the_fewest_first() -> None:
    """Each group of patterns once, in the order of the file, with a name that these and no others match."""
    groups = [group for group, _ in together(["*", "R1", "R?", "S"])]
    assert groups == [("*",), ("*", "R?"), ("*", "S"), ("*", "R1", "R?")]
