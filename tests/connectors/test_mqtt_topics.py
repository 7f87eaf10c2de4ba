"""Topics: the documented rule, and no name that could do harm further down."""

import pytest
from pydantic import ValidationError

from connectors.mqtt_topics import NAME_CHARS_MAX, TopicError, names_in
from runtime.config import Mqtt


@pytest.mark.parametrize(
    ("pattern", "topic", "asset", "tag"),
    [
        ("reactor/+/sensor/#", "reactor/R101/sensor/temperature", "R101", "temperature"),
        ("reactor/+/sensor/#", "reactor/R101/sensor/jacket/temperature", "R101", "jacket/temperature"),
        ("reactor/R101/sensor/#", "reactor/R101/sensor/ph", "R101", "ph"),
        ("reactor/R101/sensor/+", "reactor/R101/sensor/ph", "R101", "ph"),
        ("#", "reactor/R101/sensor/ph", "R101", "ph"),
        ("plant/+/+", "plant/R7/level", "R7", "level"),
        ("plant/+/line/+/#", "plant/R7/line/2/a/b", "R7", "2/a/b"),
        ("#", "R7/pump/speed", "R7", "pump/speed"),
        ("site/R7/+", "site/R7/level", "R7", "level"),
        ("site/R7/level", "site/R7/level", "R7", "level"),
        ("reactor/+/sensor/#", "reactor/Rührer 1/sensor/µ", "Rührer 1", "µ"),
    ],
)
def test_asset_and_tag_of_a_topic(pattern: str, topic: str, asset: str, tag: str) -> None:
    """The second level and what follows `sensor/`; for filters of another shape, what the wildcards stand for."""
    assert names_in(topic.encode(), ["other/+/x", pattern]) == (asset, tag)


@pytest.mark.parametrize(
    ("pattern", "topic", "why"),
    [
        ("reactor/+/sensor/#", b"reactor/R101/sensor", "ends before the tag"),
        ("reactor/+/sensor/#", b"reactor/R101/sensor/", "tag in the topic has 0 characters"),
        ("reactor/+/sensor/#", b"reactor//sensor/ph", "asset in the topic has 0 characters"),
        ("reactor/+/sensor/#", b"reactor/R101/actor/x", "matches none of the filters"),
        ("reactor/+/sensor/+", b"reactor/R101/sensor/a/b", "matches none of the filters"),
        ("reactor/+/sensor/#", b"reactor/R\x01/sensor/ph", "control character"),
        ("reactor/+/sensor/#", "reactor/R/sensor/p\u2028h".encode(), "control character"),
        ("reactor/+/sensor/#", b"reactor/R/sensor/\xff", "UTF-8"),
        ("reactor/+/sensor/#", b"reactor/R/sensor/" + b"x" * (NAME_CHARS_MAX + 1), "201 characters"),
        ("+", b"alone", "no level for the asset"),
    ],
)
def test_topics_without_asset_and_tag(pattern: str, topic: bytes, why: str) -> None:
    """A topic that names none, or a name that could do harm, is refused with the reason."""
    with pytest.raises(TopicError, match=why):
        names_in(topic, [pattern])


@pytest.mark.parametrize("text", ["", "a/#/b", "a+/b", "a/b#", "$share/g/reactor/#", "a\0b"])
def test_unusable_filters_are_found_before_anything_starts(text: str) -> None:
    """A filter that no broker takes, or that would lose the order of readings, is a configuration error."""
    with pytest.raises(ValidationError):
        Mqtt(filters=(text,))
