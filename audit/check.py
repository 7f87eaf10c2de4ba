"""The checker: compares everything downstream with the plant's journal, topic by topic and reading by reading.

    python -m audit --journal journal.jsonl --kafka 127.0.0.1:9092 --prefix twin \\
        --influx-url http://127.0.0.1:8086 --expected expected.json --out report.json

    report = check([Path("journal.jsonl")], Cluster(bootstrap=…, prefix=…), Database(…), load(Path("expected.json")))
    report.ok        # nothing is wrong anywhere
    report.faults()  # {"raw.missing": 1}: what is wrong, and how often
    report.examples  # {"raw.missing": ["R101/temperature at 17600…: value 85.1"]}

It shares no code with connectors, agents and kernels but `schemas`. What must hold, and what each fault means, stands
in `raw`, `answers`, `states`, `rejected`, `match` and `points`. Order of the work: raw against the journal; outputs
against the frames of raw; states; rejected; InfluxDB against the journal without the readings that gap frames tell of,
and against the estimates, states and alerts of the topics.

Beforehand the field must be silent: stop the plant and the connectors (they write heartbeats for ever), let the agents
run until they have caught up and saved (`agents.checkpoint_s`). The checker waits for that by itself: until no topic
has grown for `quiet_s`, and as long as something is not well and the topics still grow, up to `patience_s` after the
last change. `expected` comes from a fold of the same raw topic in one process (see `expected`); without it contents are
not compared, only that each frame is answered in order, once or identically again, and that the states have applied the
last frames.
May not know: who makes frames, outputs and expectations.
"""

import time
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit import compare
from audit.answers import Answers, look_at_estimates, look_at_state, look_at_validated
from audit.expected import Expected, ExpectedError
from audit.holes import Told, told_as_dict
from audit.journal import Journal, TagName, read
from audit.kafka import Cluster, Span
from audit.points import judge_points
from audit.raw import Raw
from audit.rejected import Refused, reason_class
from audit.states import States, judge_twins
from audit.store import Database
from audit.tally import Tally
from schemas.codec import DecodeError, decode_as
from schemas.records import Alert
from schemas.topics import ALERTS, CHANGELOGS, ESTIMATES, RAW, REJECTED, STATE, VALIDATED

POLL_S = 0.5
#: Output topic, its stage, and what to look at in each record; in the order data flows.
OUTPUTS = (
    (VALIDATED, "validation", look_at_validated),
    (ESTIMATES, "estimation", look_at_estimates),
    (STATE, "twin", look_at_state),
)
STORE_FAULTS = ("missing", "repeated", "altered")

#: All that is read, raw last: what stands elsewhere when its end is asked is an answer to what raw has by then.
TOPICS = {**{f"changelog.{t.name}": t for t in CHANGELOGS},
          **{t.name: t for t in (REJECTED, ALERTS, STATE, ESTIMATES, VALIDATED, RAW)}}  # fmt: skip
FLOW = (RAW, VALIDATED, ESTIMATES, STATE)

Spans = dict[str, dict[int, Span]]


@dataclass(slots=True)
class Report:
    """What was found. `tallies` has one entry per topic, `changelog.<stage>`, `twins` and `influxdb`."""

    tallies: dict[str, Tally] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    rejected: dict[str, dict[str, int]] = field(default_factory=dict)
    alerts: dict[str, int] = field(default_factory=dict)
    store: compare.Report | None = None
    expired: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def ok(self) -> bool:
        """Everything holds."""
        return not self.faults()

    def faults(self) -> dict[str, int]:
        """What is wrong, by place and kind, and how often."""
        found = {f"{place}.expired": count for place, count in self.expired.items() if count}
        for place, tally in self.tallies.items():
            found |= {f"{place}.{name}": count for name, count in tally.faults.items() if count}
        if self.store is not None:
            found |= {f"influxdb.{name}": n for name in STORE_FAULTS if (n := getattr(self.store, name))}
        return found

    @property
    def examples(self) -> dict[str, list[str]]:
        """The first few sentences about each fault."""
        found = {
            f"{place}.{name}": sentences
            for place, tally in self.tallies.items()
            for name, sentences in tally.examples.items()
        }
        if self.store is not None:
            found |= {f"influxdb.{n}": sentences for n in STORE_FAULTS if (sentences := self.store.examples[n])}
        return found

    def as_dict(self) -> dict[str, Any]:
        """The report for JSON."""
        return {
            "ok": self.ok,
            "faults": self.faults(),
            "stages": {place: {**t.figures, **t.faults} for place, t in self.tallies.items()},
            "expired": self.expired,
            "told": told_as_dict(self.told),
            "rejected": self.rejected,
            "alerts": self.alerts,
            "influxdb": None if self.store is None else self.store.as_dict(sum(map(_total, self.rejected.values()))),
            "examples": self.examples,
            "seconds": round(self.seconds, 3),
        }


def check(
    journals: Sequence[Path],
    cluster: Cluster,
    database: Database | None,
    expected: Expected | None = None,
    *,
    patience_s: float = 30.0,
    quiet_s: float = 3.0,
    example_count: int = 10,
    ignored: Set[str] = frozenset(),
) -> Report:
    """Check everything; InfluxDB only where a `database` is given. `ignored`: assets whose records are not looked at.

    Raises JournalError, KafkaAuditError, StoreError, and ExpectedError where raw is not what was folded.
    """
    begun = time.monotonic()
    journal = read(journals)
    spans = _when_quiet(cluster, quiet_s, patience_s)
    if expected is not None:
        _same_raw(spans[RAW.name], expected)
        expected = expected.without(ignored)
    while True:
        report, told = _checked(cluster.without(ignored), spans, journal, expected, example_count)
        if report.ok:
            break
        grown = _when_changed(cluster, spans, patience_s)
        if grown is None:
            break
        spans = grown
    if database is not None:
        report.store = compare.compare_journal(
            database, journal, told, patience_s=patience_s, example_count=example_count
        )
        report.tallies["influxdb"] = judge_points(
            cluster.without(ignored), spans, database, journal.first_sent_ns - compare.CLOCK_SLACK_NS,
            patience_s=patience_s, example_count=example_count,
        )  # fmt: skip
    report.seconds = time.monotonic() - begun
    return report


def _checked(
    cluster: Cluster, spans: Spans, journal: Journal, expected: Expected | None, example_count: int
) -> tuple[Report, dict[TagName, set[int]]]:
    report = Report(expired={t.name: sum(span.start for span in spans[t.name].values()) for t in FLOW})
    partitions = len(spans[RAW.name])
    raw = Raw(partitions, RAW.full_name(cluster.prefix), example_count)
    for record in cluster.records(RAW, spans[RAW.name]):
        raw.add(record)
    told = raw.compare(journal)
    report.tallies[RAW.name], report.told = raw.tally, raw.told
    source_offset = raw.last_offset
    for (topic, stage, look), changelog in zip(OUTPUTS, CHANGELOGS, strict=True):
        of_stage = None if expected is None else expected.stages[stage]
        answers = Answers(raw, look, partitions, of_stage, example_count)
        for record in cluster.records(topic, spans[topic.name]):
            answers.add(record)
        answers.judge()
        report.tallies[topic.name] = answers.tally
        states = States(raw, partitions, of_stage, example_count)
        for record in cluster.records(changelog, spans[f"changelog.{stage}"]):
            states.add(record)
        states.judge(source_offset)
        report.tallies[f"changelog.{stage}"] = states.tally
        source_offset = answers.last_offset
    report.tallies["twins"] = judge_twins(answers.last, expected, example_count)
    refused = Refused(example_count)
    for record in cluster.records(REJECTED, spans[REJECTED.name]):
        refused.add(record)
    refused.judge(raw.refused, journal.garbage_payloads)
    report.tallies[REJECTED.name], report.rejected = refused.tally, refused.reasons
    report.tallies[ALERTS.name], report.alerts = _alerts(cluster, spans, example_count)
    return report, told


def _alerts(cluster: Cluster, spans: Spans, example_count: int) -> tuple[Tally, dict[str, int]]:
    """How many alerts of each kind there are. An `unreadable` one is a fault."""
    tally, kinds = Tally(("unreadable",), ("records",), example_count), dict[str, int]()
    for record in cluster.records(ALERTS, spans[ALERTS.name]):
        tally.figure("records")
        try:
            kind = reason_class(decode_as(record.value, Alert).kind)
        except DecodeError as error:
            tally.fault("unreadable", f"{record.partition}/{record.offset}, key {record.key!r}: {error}")
        else:
            kinds[kind] = kinds.get(kind, 0) + 1
    return tally, kinds


def _when_quiet(cluster: Cluster, quiet_s: float, patience_s: float) -> Spans:
    """The ends of all topics when none has grown for `quiet_s`, or after `patience_s`."""
    spans, begun = cluster.spans(TOPICS), time.monotonic()
    changed = begun
    while (now := time.monotonic()) - changed < quiet_s and now - begun < patience_s:
        time.sleep(POLL_S)
        newer = cluster.spans(TOPICS)
        if newer != spans:
            spans, changed = newer, time.monotonic()
    return spans


def _when_changed(cluster: Cluster, spans: Spans, patience_s: float) -> Spans | None:
    """The ends of all topics as soon as one has grown; None where none does for `patience_s`."""
    until = time.monotonic() + patience_s
    while time.monotonic() < until:
        newer = cluster.spans(TOPICS)
        if newer != spans:
            return newer
        time.sleep(POLL_S)
    return None


def _same_raw(spans: Mapping[int, Span], expected: Expected) -> None:
    if dict(spans) != expected.raw:
        raise ExpectedError(f"raw has the offsets {dict(spans)}, expected are outputs of {expected.raw}: fold again")


def _total(reasons: Mapping[str, int]) -> int:
    return sum(reasons.values())
