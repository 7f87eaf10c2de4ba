"""`twin rejected list|show|retry`: what could not be used, why, its bytes, and another try."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Annotated, Any

import typer
from confluent_kafka import KafkaException
from rich.table import Column, Table

from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    cells,
    configuration,
    err,
    on_topics_at_work,
    one_line_errors,
    out,
    printable,
    use_environment_of,
)
from cli.rejected_log import Entry, Place, RejectedLog
from cli.tail import plain, text_of
from queries.influxql import QueryError
from queries.moments import moment_ns
from runtime import exit_codes
from runtime.config import Kafka, Plant
from runtime.generations import PlanError
from schemas.codec import DecodeError, decode
from schemas.records import Rejected

app = typer.Typer(help="What could not be used: look at it, and send it again.", no_args_is_help=True)

#: How much of a payload `show` prints.
SHOWN_BYTES = 4096
HEX_COLUMNS = 16

StageOption = Annotated[str | None, typer.Option(help="Only of this stage, as validation or connector.mqtt.")]
AssetOption = Annotated[str | None, typer.Option(help="Only of this asset.")]
SinceOption = Annotated[str | None, typer.Option(help="Rejected since then: -15m, -2d, or 2026-01-31T12:00:00Z.")]
ReasonOption = Annotated[str | None, typer.Option(help="Only where the reason contains this.")]


class UsageError(ValueError):
    """Something on the command line that cannot be used."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Which records a command is about; None: any."""

    stage: str | None
    asset: str | None
    since: str | None
    reason: str | None

    def of(self, log: RejectedLog) -> list[Entry]:
        """Those records, the newest first. Raises QueryError."""
        since_ns = 0 if self.since is None else moment_ns(self.since, time.time_ns())
        found = [
            entry
            for entry in log.entries.values()
            if entry.at_ns >= since_ns
            and self.stage in (None, entry.record.stage)
            and self.asset in (None, entry.record.asset)
            and (self.reason is None or self.reason.casefold() in entry.record.reason.casefold())
        ]
        return sorted(found, key=lambda entry: (entry.at_ns, entry.place), reverse=True)


@app.command("list")
def show_all(
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    stage: StageOption = None,
    asset: AssetOption = None,
    since: SinceOption = None,
    reason: ReasonOption = None,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per line.")] = False,
) -> None:
    """List what was rejected, the newest first, and what became of it."""
    with _opened(config, run_dir) as (_, log):
        found = Filter(stage, asset, since, reason).of(log)
    if as_json:
        for entry in found[:limit]:
            typer.echo(json.dumps(_as_dict(entry), ensure_ascii=False))
    else:
        out.print(_table(found[:limit], len(found)))


@app.command()
def show(
    place: Annotated[str, typer.Argument(metavar="PARTITION/OFFSET", help="As `list` shows it.")],
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
) -> None:
    """Show one rejected record: every field, its payload as text or bytes, and what the payload says."""
    with _opened(config, run_dir) as (_, log):
        wanted = place_of(place)
        entry = log.entries.get(wanted)
        record = None if entry is None else log.read([wanted]).get(wanted)
        if entry is None or record is None:
            raise UsageError(f"no rejected record at {place}; `twin rejected list` shows what there is")
        for line in _details(entry, record):
            typer.echo(line)


@app.command()
def retry(
    places: Annotated[list[str] | None, typer.Argument(metavar="PARTITION/OFFSET...")] = None,
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    everything: Annotated[bool, typer.Option("--all", help="All that are open and match the filters.")] = False,
    stage: StageOption = None,
    asset: AssetOption = None,
    since: SinceOption = None,
    reason: ReasonOption = None,
    again: Annotated[bool, typer.Option("--again", help="With --all: also those that a retry did not help.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be sent.")] = False,
) -> None:
    """Send rejected records again, each with the effect of once, however often and wherever this is interrupted."""
    from cli.retry import InfluxdbError, Retry  # the client of InfluxDB comes with it

    filters = Filter(stage, asset, since, reason)
    bad = 0
    with _opened(config, run_dir, "operator") as (plant, log), one_line_errors(InfluxdbError):
        if everything == bool(places) or (places and filters != Filter(None, None, None, None)):
            raise UsageError("name records as PARTITION/OFFSET, or give --all with the filters you want")
        if again and not everything:
            raise UsageError("--again goes with --all; a record that is named is sent again in any case")
        if everything:
            chosen = [e.place for e in reversed(filters.of(log)) if e.is_open and (again or e.again_of is None)]
        else:
            chosen = [place_of(text) for text in places or ()]
        run = Retry(plant, log)
        counted = 0
        for outcome in run.would(chosen) if dry_run else run.run(chosen):
            typer.echo(f"{outcome.place}  {printable(outcome.says)}")
            counted += 1
            bad += not outcome.good
    typer.echo(f"{counted} records, {bad} of them cannot be used now either")
    if bad:
        raise typer.Exit(exit_codes.FAILED)


def place_of(text: str) -> Place:
    """`PARTITION/OFFSET` as a place. Raises UsageError."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,18})", text)
    if match is None:
        raise UsageError(f"{text!r}: allowed is PARTITION/OFFSET, as 3/17")
    return Place(int(match[1]), int(match[2]))


@contextmanager
def _opened(config: Any, run_dir: Any, role: str = "viewer") -> Iterator[tuple[Plant, RejectedLog]]:
    use_environment_of(run_dir)
    plant = configuration(config, role)
    with one_line_errors(UsageError, QueryError, KafkaException, PlanError):
        plant = on_topics_at_work(plant)
        yield plant, _read(plant.kafka)


def _read(kafka: Kafka) -> RejectedLog:
    log = RejectedLog(kafka)
    log.update()
    if log.unreadable:
        err.print(f"{log.unreadable} records of the topic are not ours or of a later version, and not shown")
    return log


def _as_dict(entry: Entry) -> dict[str, Any]:
    record = {f.name: plain(getattr(entry.record, f.name)) for f in fields(Rejected) if f.name != "payload"}
    return {
        "place": str(entry.place),
        "rejected_at": _iso(entry.at_ns),
        **record,
        "payload_bytes": entry.size_bytes,
        "status": entry.status,
        "again_of": entry.again_of and str(entry.again_of),
        "again": entry.again and str(entry.again),
    }


def _table(entries: list[Entry], of: int) -> Table:
    title = f"{len(entries)} of {of} rejected records" if len(entries) < of else f"{of} rejected records"
    table = Table(
        Column("record", no_wrap=True),
        Column("rejected at", no_wrap=True),
        "stage",
        "asset",
        "tag",
        "reason",
        "came from",
        Column("bytes", justify="right"),
        "status",
        title=title,
    )
    for entry in entries:
        record = entry.record
        shown = cells(
            str(entry.place), _iso(entry.at_ns), record.stage, record.asset, record.tag, record.reason,
            _origin(record), str(entry.size_bytes), entry.status,
        )  # fmt: skip
        table.add_row(*shown)
    return table


def _origin(record: Rejected) -> str:
    return record.topic if record.offset < 0 else f"{record.topic} {record.partition}/{record.offset}"


def _details(entry: Entry, record: Rejected) -> Iterator[str]:
    yield f"record       {entry.place}"
    yield f"rejected at  {_iso(entry.at_ns)}"
    yield f"status       {entry.status}"
    if entry.again_of is not None:
        yield f"again of     {entry.again_of}"
    yield f"stage        {record.stage}"
    yield f"reason       {printable(record.reason)}"
    yield f"asset        {printable(record.asset)}"
    yield f"tag          {printable(record.tag)}"
    yield f"topic        {printable(record.topic)}"
    yield f"partition    {record.partition}"
    yield f"offset       {record.offset}"
    yield f"time         {f'{_iso(record.time_ns)} ({record.time_ns} ns)' if record.time_ns else 'unknown'}"
    yield f"payload      {len(record.payload)} bytes"
    yield from _payload_lines(record.payload)
    try:
        found = decode(record.payload)
    except DecodeError:
        return
    yield f"decoded      {type(found).__name__}"
    for f in fields(found):
        yield f"  {f.name}: {printable(json.dumps(plain(getattr(found, f.name)), ensure_ascii=False))}"


def _payload_lines(payload: bytes) -> Iterator[str]:
    """As text where all of it is printable, else as a hex dump; the beginning of what is long."""
    shown = payload[:SHOWN_BYTES]
    text = text_of(shown, whole=len(shown) == len(payload))
    if text and all(line.isprintable() for line in text.split("\n")):
        yield from (f"  {line}" for line in text.split("\n"))
    else:
        for at in range(0, len(shown), HEX_COLUMNS):
            row = shown[at : at + HEX_COLUMNS]
            letters = "".join(chr(b) if 32 <= b < 127 else "." for b in row)
            yield f"  {at:06x}  {row.hex(' '):<{3 * HEX_COLUMNS}} {letters}"
    if len(payload) > SHOWN_BYTES:
        yield f"  … and {len(payload) - SHOWN_BYTES} bytes more"


def _iso(time_ns: int) -> str:
    """UTC with ms; times outside the calendar as they are."""
    try:
        moment = datetime.fromtimestamp(time_ns // 1_000_000 / 1000, UTC)
    except (ValueError, OverflowError, OSError):
        return f"{time_ns} ns"
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
