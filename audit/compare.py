"""Compares the plant's journal with InfluxDB, reading by reading, and scores quality, estimation and latency.

    report = compare(Database(url=…, bucket=…, token=…), [Path("journal.jsonl")])
    report.exact  # nothing missing, repeated or altered

Latency is measured per reading: from the moment the plant handed it over (`sent_ns` in the journal) to InfluxDB's
answer to the sink (`reactor_frame` in InfluxDB, found by the reading's source and seq). Plant and sink must share a
clock. May not know: Kafka, agents, how points were written.
"""

import time
from array import array
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from audit.journal import Journal, Sent, TagName, read
from audit.match import ORDINALS, Matches, match
from audit.score import QUALITY_KINDS, Scores, percentiles
from audit.store import Database, Stored

HEADLINE_UNIT = "degC"
#: A connector's clock may be this much behind the plant's before a point counts as older than the run.
CLOCK_SLACK_NS = 1_000_000_000
POLL_S = 1.0


@dataclass(slots=True)
class Report:
    """What the comparison found. Counts are readings; `examples` has the first few sentences of each kind."""

    protocols: dict[str, int] = field(default_factory=dict)
    stored: int = 0
    missing: int = 0
    repeated: int = 0
    altered: int = 0
    imputed: int = 0
    repeats_sent: int = 0
    garbage_sent: int = 0
    quality: dict[str, int] = field(default_factory=dict)
    faults: dict[str, Any] = field(default_factory=dict)
    estimation: dict[str, Any] = field(default_factory=dict)
    latency_ms: dict[str, Any] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)

    @property
    def exact(self) -> bool:
        """Every reading sent is stored once and unaltered."""
        return not (self.missing or self.repeated or self.altered)

    def as_dict(self, rejected: int | None = None) -> dict[str, Any]:
        """The report for JSON. `rejected`: how many records the rejected topic got, counted by the caller."""
        counts = {
            "mqtt": self.protocols.get("mqtt", 0),
            "opcua": self.protocols.get("opcua", 0),
            "stored": self.stored,
            "missing": self.missing,
            "repeated": self.repeated,
            "altered": self.altered,
            "rejected": rejected,
            "imputed": self.imputed,
            "repeats_sent": self.repeats_sent,
            "garbage_sent": self.garbage_sent,
        }
        return {
            "readings": counts,
            "quality": self.quality,
            "faults": self.faults,
            "estimation": self.estimation,
            "latency_ms": self.latency_ms,
            "examples": self.examples,
        }


def compare(
    database: Database,
    journals: Sequence[Path],
    *,
    patience_s: float = 0.0,
    settle_s: float = 5.0,
    example_count: int = 10,
) -> Report:
    """Compare. While readings are missing and their number still falls, wait up to `patience_s` for the next ones.

    `settle_s`: how long after a fault its tag may be flagged without being a false alarm. Raises JournalError,
    StoreError.
    """
    return compare_journal(
        database, read(journals), patience_s=patience_s, settle_s=settle_s, example_count=example_count
    )


def compare_journal(
    database: Database,
    journal: Journal,
    lost: Mapping[TagName, Set[int]] | None = None,
    *,
    patience_s: float = 0.0,
    settle_s: float = 5.0,
    example_count: int = 10,
) -> Report:
    """Like `compare`, for a journal that was read already. `lost`: readings by their index that nobody expects in
    InfluxDB, and that must not be there. Raises StoreError.
    """
    fewest, patient_until = None, time.monotonic() + patience_s
    while True:
        report = _compared(database, journal, lost or {}, settle_s, example_count)
        if fewest is None or report.missing < fewest:
            fewest, patient_until = report.missing, time.monotonic() + patience_s
        if not report.missing or time.monotonic() >= patient_until:
            return report
        time.sleep(POLL_S)


def _compared(
    database: Database, journal: Journal, lost: Mapping[TagName, Set[int]], settle_s: float, example_count: int
) -> Report:
    since_ns = journal.first_sent_ns - CLOCK_SLACK_NS
    report = Report(
        protocols=journal.protocols, repeats_sent=journal.repeats, garbage_sent=journal.garbage,
        examples={"missing": [], "repeated": [], "altered": [], "false_alarms": [], "faults_not_flagged": []},
    )  # fmt: skip
    scores, latency = Scores(settle_ns=round(settle_s * 1e9)), _Latency(database, since_ns)
    for name in sorted(journal.readings.keys() | journal.episodes.keys()):
        readings = journal.readings.get(name)
        if not readings:
            continue
        begin_ns, end_ns = min(readings.time_ns), max(readings.time_ns) + ORDINALS  # also where all of them are lost
        sent = [s for index, s in enumerate(readings) if index not in lost.get(name, ())]
        stored = database.readings(*name, begin_ns, end_ns)
        found = match(sent, stored, since_ns)
        _count(report, name, found, example_count)
        if not sent:
            continue
        scores.add(name, found, journal.episodes.get(name, []))
        latency.add(name[0], found)
    _score(report, scores, example_count)
    report.latency_ms = latency.summary()
    return report


def _count(report: Report, name: TagName, found: Matches, example_count: int) -> None:
    report.stored += len(found.pairs)
    report.missing += len(found.missing)
    report.altered += len(found.altered)
    report.repeated += len(found.repeated)
    report.imputed += len(found.imputed)
    tag = "/".join(name)
    sentences = {
        "missing": [f"{tag} at {s.time_ns}: {_content(s)} over {s.protocol}" for s in found.missing[:example_count]],
        "altered": [f"{tag} at {s.time_ns}: {words}" for s, _, words in found.altered[:example_count]],
        "repeated": [f"{tag} at {p.time_ns}: {words}" for p, words in found.repeated[:example_count]],
    }
    for kind, lines in sentences.items():
        report.examples[kind] = (report.examples[kind] + lines)[:example_count]


def _score(report: Report, scores: Scores, example_count: int) -> None:
    report.quality = scores.grades
    flagged = [f for f in scores.faults if f.flagged]
    report.faults = {
        "injected": len(scores.faults),
        "flagged": len(flagged),
        "false_alarms": len(scores.false_alarms),
        "by_kind": {
            kind: {
                "injected": sum(f.kind == kind for f in scores.faults),
                "flagged": sum(f.kind == kind for f in flagged),
            }
            for kind in sorted(QUALITY_KINDS & {f.kind for f in scores.faults})
        },
    }
    report.examples["faults_not_flagged"] = [f"{f.asset}/{f.tag}: {f.kind}" for f in scores.faults if not f.flagged][
        :example_count
    ]
    report.examples["false_alarms"] = [
        f"{'/'.join(name)} at {s.time_ns}: {_content(s)} has flag {p.quality}, tests {p.tests:#x}"
        for name, s, p in scores.false_alarms[:example_count]
    ]
    raw, estimate, nis = scores.mse(HEADLINE_UNIT)
    report.estimation = {"mse_raw": raw, "mse_estimate": estimate, "nis_mean": nis, "unit": f"{HEADLINE_UNIT}²"}
    report.estimation["per_tag"] = {
        "/".join(name): {
            "unit": e.unit,
            "readings": e.count,
            "mse_raw": e.raw / e.count,
            "mse_estimate": e.estimate / e.count,
            "nis_mean": sum(e.nis) / len(e.nis) if e.nis else None,
        }
        for name, e in sorted(scores.errors.items())
        if e.count
    }


def _content(sent: Sent) -> str:
    return f"text {sent.text[:80]!r}" if sent.text is not None else f"value {sent.value!r}"


class _Latency:
    """Time from handing over a reading to its arrival in the connector, and to InfluxDB's answer."""

    def __init__(self, database: Database, since_ns: int) -> None:
        self._database, self._since_ns = database, since_ns
        self._frames: dict[str, dict[tuple[str, int], list[int]]] = {}
        self._arrived, self._stored = array("d"), array("d")
        self._unknown = 0

    def add(self, asset: str, found: Matches) -> None:
        """Take in the readings of one tag."""
        if asset not in self._frames:
            self._frames[asset] = self._database.stored_times(asset, self._since_ns)
        for sent, stored in found.pairs:
            if stored.arrival_ns < self._since_ns:
                continue  # stored by an earlier run that sent the same
            self._arrived.append((stored.arrival_ns - sent.sent_ns) / 1e6)
            stored_ns = self._stored_ns(asset, stored)
            if stored_ns is None:
                self._unknown += 1
            else:
                self._stored.append((stored_ns - sent.sent_ns) / 1e6)

    def summary(self) -> dict[str, Any]:
        """p50 and p99 in ms from handing over to stored, the same to arrival, and how many readings say nothing."""
        return {**percentiles(self._stored), "arrival": percentiles(self._arrived), "unknown": self._unknown}

    def _stored_ns(self, asset: str, stored: Stored) -> int | None:
        confirmed = self._frames[asset].get((stored.source, stored.seq), ())
        return min((ns for ns in confirmed if ns >= stored.arrival_ns), default=None)
