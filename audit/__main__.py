"""`python -m audit`: the checker as a program; see `audit.check`. Exit code 0 only where everything holds."""

import argparse
import os
import sys
from pathlib import Path

import orjson

from audit.check import Report, check
from audit.expected import ExpectedError, load
from audit.journal import JournalError
from audit.kafka import Cluster, KafkaAuditError, properties
from audit.store import Database, StoreError
from schemas.topics import DEFAULT_PREFIX

HOLDS, FAULTY, CANNOT_TELL = 0, 1, 2


def main() -> int:
    """Check as the arguments say, print a table, write the report."""
    wanted = _arguments()
    try:
        settings = {} if wanted.kafka_properties is None else properties(wanted.kafka_properties)
        cluster = Cluster(bootstrap=wanted.kafka, prefix=wanted.prefix, properties=settings)
        database = None
        if wanted.influx_url:
            token = os.environ.get("INFLUX_TOKEN", "")
            database = Database(
                url=wanted.influx_url, bucket=wanted.influx_bucket, token=token, ca_file=wanted.influx_ca_file
            )
        report = check(
            wanted.journal,
            cluster,
            database,
            None if wanted.expected is None else load(wanted.expected),
            patience_s=wanted.patience_s,
            quiet_s=wanted.quiet_s,
            example_count=wanted.examples,
            ignored=frozenset(wanted.ignore),
        )
    except (JournalError, KafkaAuditError, StoreError, ExpectedError) as error:
        print(f"cannot tell: {error}", file=sys.stderr)
        return CANNOT_TELL
    if wanted.out is not None:
        wanted.out.write_bytes(orjson.dumps(report.as_dict(), option=orjson.OPT_INDENT_2) + b"\n")
    print(table(report))
    return HOLDS if report.ok else FAULTY


def table(report: Report) -> str:
    """A line per place: figures, then faults; then the first example of each fault."""
    lines = []
    for place, tally in report.tallies.items():
        figures = ", ".join(f"{name} {count:,}" for name, count in tally.figures.items() if count)
        faults = ", ".join(f"{name.upper()} {count:,}" for name, count in tally.faults.items() if count)
        lines.append(f"{place:22} {faults or 'ok':30} {figures}")
    if (store := report.store) is not None:
        faults = ", ".join(f"{n.upper()} {v:,}" for n in ("missing", "repeated", "altered") if (v := getattr(store, n)))
        lines.append(
            f"{'influxdb, readings':22} {faults or 'ok':30} stored {store.stored:,}, imputed {store.imputed:,}"
        )
    for hole in report.told:
        tags = ", ".join(hole.tags) or "all tags"
        lines.append(
            f"told: {hole.asset} ({tags}) {hole.from_ns} to {hole.to_ns}: {hole.missing} missing, {hole.cause}"
        )
    lines += [f"rejected by {stage}: {n} × {why}" for stage, of in report.rejected.items() for why, n in of.items()]
    lines += [f"alert {kind}: {count}" for kind, count in report.alerts.items()]
    lines += [f"{name}: {sentences[0]}" for name, sentences in report.examples.items() if name in report.faults()]
    return "\n".join([*lines, f"{'everything holds' if report.ok else 'NOT OK'}, {report.seconds:.1f} s"])


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m audit", description="Compare all that the plant sent with all that became of it."
    )
    add = parser.add_argument
    add("--journal", type=Path, action="append", required=True, help="journal of the plant; give several one by one")
    add("--kafka", required=True, metavar="HOST:PORT")
    add("--prefix", default=DEFAULT_PREFIX, help="of the topics")
    settings = "file of librdkafka settings, for TLS and SASL; else $KAFKA_PROPERTIES"
    add("--kafka-properties", type=Path, default=_path("KAFKA_PROPERTIES"), help=settings)
    add("--influx-url", help="without it InfluxDB is not looked at; its token comes from $INFLUX_TOKEN")
    add("--influx-bucket", default="plant")
    add("--influx-ca-file", type=Path, help="who signed the certificate of InfluxDB; else whom the system trusts")
    add("--expected", type=Path, help="outputs and states of a fold in one process")
    add("--out", type=Path, help="write the report as JSON")
    add("--patience-s", type=float, default=30.0, help="wait so long for what is not there yet")
    add("--quiet-s", type=float, default=3.0, help="no topic may have grown for so long")
    add("--ignore", action="append", default=[], metavar="ASSET", help="do not look at it: somebody forges its records")
    add("--examples", type=int, default=10, help="sentences about each fault")
    return parser.parse_args()


def _path(variable: str) -> Path | None:
    return Path(os.environ[variable]) if os.environ.get(variable) else None


if __name__ == "__main__":
    sys.exit(main())
