"""The topic of raw frames against the plant's journal. Pure: records come in, a tally comes out.

A frame counts where it appears first; the same bytes again are a repetition, which at-least-once allows, other bytes of
the same identity are not. A reading counts where it appears first, too. Each reading of the journal has one outcome,
the first of these that holds:

| of a reading that was sent | outcome |
|---|---|
| its time and content (number to the bit, or text) are there, in its unit and with its status | there |
| its time and content are there, in another unit, or over OPC UA with another status | altered |
| its time is there with a content that nobody sent | altered |
| its content is there at a time that nobody sent | altered |
| a gap frame of its asset (and tag), by a source that it would have come by, covers it (`holes`) | told |
| none of these | missing |

| fault | meaning |
|---|---|
| missing | a reading that was sent is not there, and no gap frame says so |
| altered | it is there with another value (any bit), time, text, unit or (over OPC UA) status |
| unsent | a reading of a time between the tag's first and last that nobody sent |
| out_of_order | a reading stands before one of its tag and protocol that was sent earlier |
| seq_holes | a frame is missing between two of its asset, source and epoch, or before the first |
| seq_out_of_order | a frame stands behind its successor |
| conflicting | a second frame of an identity has other bytes |
| misplaced | a frame is in the wrong partition, or its key is not its asset |
| inexact | a gap frame says something else than what is missing (`holes`) |
"""

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from math import isnan, nan

import numpy as np
from numpy.typing import NDArray

from audit.holes import Heard, Told, reaches_too_far
from audit.journal import Journal, Readings, Sent, TagName
from audit.kafka import Record, home
from audit.match import ORDINALS
from audit.streams import HOLE_MAX, NOWHERE, Key, Stream, digest, key_of, named
from audit.tally import Tally
from schemas.codec import DecodeError, decode_as
from schemas.frames import Frame

FAULTS = (
    "missing", "altered", "unsent", "out_of_order", "seq_holes", "seq_out_of_order", "conflicting", "misplaced",
    "inexact",
)  # fmt: skip
FIGURES = (
    "records", "frames", "repeated_frames", "unreadable", "readings", "repeated_readings", "told_missing",
    "gap_frames", "heartbeats", "of_no_journal",
)  # fmt: skip

Content = tuple[int, int | str]  # time, bits of the value or the text
Carriers = dict[str, set[str]]  # protocol → sources of the frames in which its readings come
#: Statuses (their upper half) of a server that has no such variable, or no value of it: no reading of the device.
PLACEHOLDERS = np.array([0x80320000, 0x80330000, 0x80340000, 0x809B0000], np.uint32)


class TagReadings:
    """The readings of one tag in raw, in the order of the topic, as columns."""

    def __init__(self) -> None:
        self.time_ns, self.value, self.status, self.unit = array("q"), array("d"), array("I"), array("I")
        self.source, self.place = array("I"), array("q")  # index of the frame's source, and the frame's place
        self.texts: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self.time_ns)

    def contents(self) -> list[Content]:
        """What each reading is recognised by."""
        found: list[Content] = list(zip(self.time_ns, _bits(self.value), strict=True))
        for at, text in self.texts.items():
            found[at] = (self.time_ns[at], text)
        return found


class Raw:
    """Takes in all records of the topic in order of their offsets, then `compare` with a journal."""

    def __init__(self, partitions: int, topic: str, example_count: int = 10) -> None:
        self.tally = Tally(FAULTS, FIGURES, example_count)
        self.streams: dict[Key, Stream] = {}
        self.unanswerable: set[tuple[Key, int]] = set()
        self.refused: dict[tuple[str, int, int], bytes] = {}  # position → key of what must be among the rejected
        self.told: list[Told] = []
        self.last_offset: dict[str, int] = {}
        self._partitions, self._topic = partitions, topic
        self._tags: dict[TagName, TagReadings] = {}
        self._units: dict[str, int] = {}
        self._sources: dict[str, int] = {}
        self._heard: dict[tuple[str, str], Heard] = {}
        self._last_seq: dict[Key, int] = {}
        self._place = 0

    def add(self, record: Record) -> None:
        """Take in one record."""
        self.tally.figure("records")
        try:
            frame = decode_as(record.value, Frame)
        except DecodeError:
            self.tally.figure("unreadable")
            self.refused[self._topic, record.partition, record.offset] = record.key
            return
        key, seq = key_of(frame.identity), frame.seq
        stream = self.streams.setdefault(key, Stream())
        bytes_digest = digest(record.value)
        if stream.seen(seq):
            if stream.digest(seq) == bytes_digest:
                self.tally.figure("repeated_frames")
            else:
                self.tally.fault("conflicting", f"{named(key, seq)} at {_at(record)}")
            return
        if seq > len(stream) + HOLE_MAX:
            self.tally.fault("seq_holes", f"{named(key, seq)} at {_at(record)} after seq {len(stream) - 1}")
            return
        self._place += 1
        self.tally.figure("frames")
        stream.put(seq, bytes_digest, self._place)
        if not self._well_placed(record, frame):
            self.unanswerable.add((key, seq))
            self.refused[self._topic, record.partition, record.offset] = record.key
        elif seq < self._last_seq.get(key, -1):
            self.tally.fault("seq_out_of_order", f"{named(key, seq)} at {_at(record)}, behind its successor")
            self.unanswerable.add((key, seq))
        else:
            self._last_seq[key] = seq
            self.last_offset[frame.asset] = record.offset
        self._take(frame)

    def compare(self, journal: Journal) -> dict[TagName, set[int]]:
        """Judge everything that was taken in. Returns which readings of the journal are not in raw because they were
        lost before it, as a gap frame tells.
        """
        self._judge_streams()
        found = {name: self._found(name, journal.readings[name]) for name in sorted(journal.readings)}
        carriers: Carriers = {}
        for of_tag in found.values():
            for protocol, sources in of_tag.carriers.items():
                carriers.setdefault(protocol, set()).update(sources)
        told: dict[TagName, set[int]] = {}
        for name, of_tag in found.items():
            of_tag.carriers = carriers | of_tag.carriers
            lost = self._judge_lost(name, journal.readings[name], of_tag)
            self._count_present(name, journal.readings[name], of_tag)
            if lost:
                told[name] = lost
        self._judge_holes(journal)
        self.tally.figure("of_no_journal", sum(len(of) for name, of in self._tags.items() if name not in found))
        return told

    def _well_placed(self, record: Record, frame: Frame) -> bool:
        if record.key != frame.asset.encode():
            self.tally.fault("misplaced", f"{named(key_of(frame.identity), frame.seq)}: key {record.key!r}")
            return False
        belongs = home(record.key, self._partitions)
        if belongs != record.partition:
            words = f"{named(key_of(frame.identity), frame.seq)} at {_at(record)}, belongs to partition {belongs}"
            self.tally.fault("misplaced", words)
            return False
        return True

    def _take(self, frame: Frame) -> None:
        heard = self._heard.setdefault((frame.asset, frame.source), Heard())
        if frame.gap is not None:
            self.tally.figure("gap_frames")
            gap = frame.gap
            hole = Told(
                frame.asset, frame.source, frame.tags, gap.from_ns, gap.to_ns, gap.cause, gap.lost,
                told_ns=frame.time_ns, place=self._place,
            )  # fmt: skip
            self.told.append(hole)
            if (hole.of_spool or not hole.tags) and (words := heard.judge(hole)):
                self.tally.fault("inexact", f"{hole}: {words}")
        if frame.kind == "heartbeat":
            self.tally.figure("heartbeats")
        self.tally.figure("readings", len(frame))
        if len(frame):
            heard.add(frame)
        source = self._sources.setdefault(frame.source, len(self._sources))
        for index in dict.fromkeys(frame.tag.tolist()):
            rows = np.flatnonzero(frame.tag == index)
            readings = self._tags.setdefault((frame.asset, frame.tags[index]), TagReadings())
            start = len(readings)
            if frame.texts:
                texts = ((start + n, frame.texts.get(row)) for n, row in enumerate(rows.tolist()))
                readings.texts |= {at: text for at, text in texts if text is not None}
            unit = self._units.setdefault(frame.units[index], len(self._units))
            readings.time_ns.frombytes(frame.source_time_ns[rows].tobytes())
            readings.value.frombytes(frame.value[rows].tobytes())
            readings.status.extend(frame.status[rows].tolist())
            readings.unit.extend([unit] * len(rows))
            readings.source.extend([source] * len(rows))
            readings.place.extend([self._place] * len(rows))

    def _judge_streams(self) -> None:
        for key, stream in self.streams.items():
            for seq in stream.unseen():
                self.tally.fault("seq_holes", f"{named(key, seq)} is not there, a later one is")

    def _found(self, name: TagName, sent: Readings) -> "Found":
        """What of the readings that were sent is there; judges their order, units and statuses."""
        raw = self._tags.setdefault(name, TagReadings())
        contents = raw.contents()
        first: dict[Content, int] = {}
        for at, content in enumerate(contents):
            first.setdefault(content, at)
        for at in raw.texts:  # a reading that was sent without a word may come with one: null, NaN
            first.setdefault((raw.time_ns[at], NO_NUMBER), at)
        wanted = _contents(sent)
        places = [first.get(content, NOWHERE) for content in wanted]
        self._judge_order(name, sent, wanted, places)
        known = set(places)
        known_contents = {contents[at] for at in known if at != NOWHERE}
        strangers = [at for at, content in enumerate(contents) if content not in known_contents]
        repeated = len(contents) - len(strangers) - len(known - {NOWHERE})
        self.tally.figure("repeated_readings", repeated)
        self._judge_words(name, sent, raw, places)
        sources = {code: source for source, code in self._sources.items()}
        carriers: Carriers = {}
        for index, place in enumerate(places):
            if place != NOWHERE:
                carriers.setdefault(sent.protocol(index), set()).add(sources[raw.source[place]])
        return Found(array("q", places), strangers, carriers)

    def _judge_order(self, name: TagName, sent: Readings, wanted: Sequence[Content], places: Sequence[int]) -> None:
        last: dict[str, int] = {}
        again = set()
        for index, place in enumerate(places):
            if place == NOWHERE or wanted[index] in again:
                continue
            again.add(wanted[index])
            protocol = sent.protocol(index)
            if place < last.get(protocol, -1):
                self.tally.fault("out_of_order", f"{_tag(name)} at {sent.time_ns[index]}")
            else:
                last[protocol] = place

    def _judge_words(self, name: TagName, sent: Readings, raw: TagReadings, places: Sequence[int]) -> None:
        """Unit, and over OPC UA the status, of readings that are there."""
        units = {code: unit for unit, code in self._units.items()}
        for index, place in enumerate(places):
            if place == NOWHERE:
                continue
            unit = units[raw.unit[place]]
            if unit != sent.unit(index):
                words = f"unit {sent.unit(index)!r} became {unit!r}"
            elif sent.protocol(index) == "opcua" and raw.status[place] != sent.status[index]:
                words = f"status {sent.status[index]:#010x} became {raw.status[place]:#010x}"
            else:
                continue
            self.tally.fault("altered", f"{_tag(name)} at {sent.time_ns[index]}: {words}")

    def _judge_lost(self, name: TagName, sent: Readings, found: "Found") -> set[int]:
        """Say of each reading that is not there what became of it; returns those that a gap frame tells of."""
        raw, strangers = self._tags[name], found.strangers
        lost = [index for index, place in enumerate(found.places) if place == NOWHERE]
        free = dict.fromkeys(strangers)
        remaining = []
        by_time: dict[int, list[int]] = {}
        for at in strangers:
            by_time.setdefault(raw.time_ns[at], []).append(at)
        for index in lost:
            same_time = by_time.get(sent.time_ns[index])
            if same_time:
                at = same_time.pop(0)
                del free[at]
                words = f"{_shown(sent.value[index], sent.texts.get(index))} became {_raw_shown(raw, at)}"
                self.tally.fault("altered", f"{_tag(name)} at {sent.time_ns[index]}: {words}")
            else:
                remaining.append(index)
        by_value: dict[int | str, list[int]] = {}
        contents = raw.contents() if free else []
        for at in free:
            by_value.setdefault(contents[at][1], []).append(at)
        told = set()
        holes = [hole for hole in self.told if hole.asset == name[0] and hole.concerns(name[1])]
        wanted = _contents(sent) if remaining else []
        for index in remaining:
            same_value = by_value.get(wanted[index][1])
            if same_value:
                at = same_value.pop(0)
                del free[at]
                words = f"time {sent.time_ns[index]} became {raw.time_ns[at]}"
                self.tally.fault("altered", f"{_tag(name)} at {sent.time_ns[index]}: {words}")
            elif covering := _covering(holes, sent[index], found.carriers):
                self.tally.figure("told_missing")
                told.add(index)
                for hole in covering:
                    hole.missing += 1
                    hole.alone += len(covering) == 1
                    hole.readings[name[1]] = hole.readings.get(name[1], 0) + 1
            else:
                words = _shown(sent.value[index], sent.texts.get(index))
                self.tally.fault("missing", f"{_tag(name)} at {sent.time_ns[index]}: {words}")
        self._judge_strangers(name, sent, raw, list(free))
        return told

    def _judge_strangers(self, name: TagName, sent: Readings, raw: TagReadings, strangers: Sequence[int]) -> None:
        """What nobody sent counts within the time of the journal; outside it is of another run."""
        begin, end = min(sent.time_ns), max(sent.time_ns) + ORDINALS
        for at in strangers:
            if begin <= raw.time_ns[at] <= end:
                self.tally.fault("unsent", f"{_tag(name)} at {raw.time_ns[at]}: {_raw_shown(raw, at)}")
            else:
                self.tally.figure("of_no_journal")

    def _count_present(self, name: TagName, sent: Readings, found: "Found") -> None:
        times = np.array(sent.time_ns, np.int64)[np.array(found.places, np.int64) != NOWHERE]
        for hole in self.told:
            if hole.asset == name[0] and hole.concerns(name[1]):
                hole.present += int(np.count_nonzero((times > hole.from_ns) & (times < hole.to_ns)))

    def _judge_holes(self, journal: Journal) -> None:
        """Whether what gap frames tell is exact, of assets and tags that the journal knows."""
        assets = {asset for asset, _ in journal.readings}
        for hole in self.told:
            if hole.asset not in assets:
                continue
            if words := hole.miscounted():
                self.tally.fault("inexact", f"{hole}: {words}")
            for tag in () if hole.of_spool else hole.tags:
                if (hole.asset, tag) in journal.readings and (words := self._too_far(hole, tag)):
                    self.tally.fault("inexact", f"{hole}: {tag}: {words}")

    def _too_far(self, hole: Told, tag: str) -> str:
        raw = self._tags[hole.asset, tag]
        status = np.array(raw.status, np.uint32) & 0xFFFF0000
        mine = (np.array(raw.source, np.uint32) == self._sources[hole.source]) & ~np.isin(status, PLACEHOLDERS)
        return reaches_too_far(hole, np.array(raw.time_ns, np.int64)[mine], np.array(raw.place, np.int64)[mine])


@dataclass(slots=True)
class Found:
    """Of a tag: where each reading of the journal is in raw (NOWHERE: nowhere), what is there that nobody sent, and
    which sources bring what is sent over a protocol.
    """

    places: "array[int]"
    strangers: list[int]
    carriers: Carriers


def _covering(holes: Sequence[Told], sent: Sent, carriers: Carriers) -> list[Told]:
    """The holes that a reading may have been lost in."""
    sources = carriers.get(sent.protocol, ())
    return [hole for hole in holes if hole.source in sources and hole.covers(sent)]


NO_NUMBER = int(np.array([nan]).view(np.int64)[0])


def _bits(values: "array[float]") -> list[int]:
    """The bits of every value; all that are no number alike."""
    numbers: NDArray[np.float64] = np.array(values, np.float64)
    bits = numbers.view(np.int64)
    bits[np.isnan(numbers)] = NO_NUMBER
    found: list[int] = bits.tolist()
    return found


def _contents(sent: Readings) -> list[Content]:
    found: list[Content] = list(zip(sent.time_ns, _bits(sent.value), strict=True))
    for at, text in sent.texts.items():
        found[at] = (sent.time_ns[at], text)
    return found


def _at(record: Record) -> str:
    return f"{record.partition}/{record.offset}"


def _tag(name: TagName) -> str:
    return "/".join(name)


def _raw_shown(raw: TagReadings, at: int) -> str:
    return _shown(raw.value[at], raw.texts.get(at))


def _shown(value: float, text: str | None) -> str:
    if text is not None:
        return f"text {text[:80]!r}"
    return "no number" if isnan(value) else f"value {value!r} ({value.hex()})"
