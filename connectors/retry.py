"""A rejected MQTT payload, read again with the program and the configuration of now.

Pure: no clock, no I/O. Nothing but `StillBadError` leaves `frame_again`.
"""

from dataclasses import replace

from connectors.framer import TAGS_MAX, Reading, columns, texts
from connectors.mqtt_topics import TopicError, names_in
from connectors.payload import PayloadError, parse
from runtime.config import Mqtt, Plant
from schemas.frames import Frame
from schemas.records import CUT_OFF, UNTIMED, Rejected


class StillBadError(ValueError):
    """What was rejected cannot be used now either. The message says why."""


def frame_again(rejected: Rejected, plant: Plant) -> Frame:
    """The readings of the payload as one frame (epoch and seq are the sender's to set). Raises StillBadError.

    Readings without a time of their own get the time at which the message arrived first. Edge reduction is not
    applied: it looks at neighbours, and theirs are long gone.
    """
    if rejected.reason.startswith((CUT_OFF, UNTIMED)):
        raise StillBadError(rejected.reason)
    try:
        connector = _connector(rejected.topic, plant)
        names = names_in(rejected.topic.encode(), connector.filters)
        readings, remark = parse(rejected.payload, *names, rejected.time_ns)
    except (TopicError, PayloadError) as error:
        raise StillBadError(str(error)) from error
    if remark is not None:
        raise StillBadError(remark)
    return _frame([_with_unit(reading, plant) for reading in readings], connector.id, rejected.time_ns)


def _connector(topic: str, plant: Plant) -> Mqtt:
    """The connector that would hear this topic now; where none does, the first one says why."""
    for connector in plant.mqtt:
        try:
            names_in(topic.encode(), connector.filters)
        except TopicError:
            continue
        return connector
    if not plant.mqtt:
        raise StillBadError("no MQTT connector is configured")
    return plant.mqtt[0]


def _with_unit(reading: Reading, plant: Plant) -> Reading:
    return reading if reading.unit else replace(reading, unit=plant.tag(reading.asset, reading.tag).unit or "")


def _frame(readings: list[Reading], source: str, time_ns: int) -> Frame:
    entries = {name: row for row, name in enumerate(dict.fromkeys((r.tag, r.unit) for r in readings))}
    if len(entries) > TAGS_MAX:
        raise StillBadError(f"{len(entries)} units of one tag, allowed are {TAGS_MAX}")
    return Frame(
        asset=readings[0].asset,
        source=source,
        epoch=0,
        seq=0,
        kind="readings",
        connected=True,
        time_ns=time_ns,
        tags=tuple(tag for tag, _ in entries),
        units=tuple(unit for _, unit in entries),
        texts=texts(readings),
        gap=None,
        **columns([entries[r.tag, r.unit] for r in readings], readings),
    )
