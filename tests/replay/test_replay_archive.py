"""A replay that reads an archive and the topic as one log, on a real broker with real deletion of records."""

from datetime import UTC, datetime
from pathlib import Path

import orjson
import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from typer.testing import CliRunner

from cli.main import app
from replay.archive.writing import archive
from replay.results.provenance import Provenance, loaded
from replay.run import Request, replay
from replay.sources.span import SpanError
from replay.sources.topic import SourceError, spans_of
from runtime.config import Kafka, Plant
from schemas.topics import RAW
from tests.replay.raw_topic import MIDNIGHT_MS, PARTITIONS, fill, raw_topic

CHUNK_BYTES = 9000
MIDNIGHT = datetime.fromtimestamp(MIDNIGHT_MS / 1000, UTC).isoformat()
pytestmark = [pytest.mark.services, pytest.mark.timeout(240)]


def ends(kafka: Kafka) -> dict[int, int]:
    """The end of every partition of raw."""
    return {p: end for p, (_, end) in spans_of(kafka, RAW.full_name(kafka.prefix)).items()}


def delete_before(kafka: Kafka, offsets: dict[int, int]) -> None:
    """What retention does."""
    places = [TopicPartition(RAW.full_name(kafka.prefix), p, offset) for p, offset in offsets.items()]
    admin = AdminClient({"bootstrap.servers": kafka.address})  # its futures end only while it is kept
    for deleted in admin.delete_records(places).values():
        deleted.result(30)


def replayed(kafka: Kafka, folder: Path | None, **asked: object) -> Provenance:
    """What came of a replay that keeps nothing but digests."""
    whole = {"begin": "beginning", "end": "now", "run": "a", "to": "none", "frames": "as-live", "workers": 2}
    request = Request(plant=Plant(kafka=kafka), archive=folder, **{**whole, **asked})  # type: ignore[arg-type]
    found = replay(request).provenance
    assert found is not None
    return found


def partly_archived(bootstrap: str, prefix: str, folder: Path) -> Kafka:
    """A topic whose first 30 turns are in an archive, and 15 more are not."""
    kafka = raw_topic(bootstrap, prefix)
    fill(kafka, 0, 30)
    archive(kafka, folder, chunk_bytes=CHUNK_BYTES)
    fill(kafka, 30, 45)
    return kafka


ASKED: list[dict[str, object]] = [
    {},
    {"end": MIDNIGHT},
    {"begin": MIDNIGHT, "state": "warmup=15s", "frames": "wide"},
    {"assets": ("R-2", "werk*")},
]


def test_an_archive_gives_what_the_topic_gave(kafka: str, tmp_path: Path) -> None:
    """After the topic has lost its beginning, and more than that, spans of all kinds give the digests of before."""
    plant = partly_archived(kafka, "kept-same", tmp_path)
    newest = ends(plant)
    before = [replayed(plant, None, **asked) for asked in ASKED]
    delete_before(plant, {0: 20, 1: 50})
    after = [replayed(plant, tmp_path, **asked) for asked in ASKED]
    for old, new in zip(before, after, strict=True):
        assert old.digests and new.digests == old.digests
        assert (new.offsets, new.counts, old.archived) == (old.offsets, old.counts, {})
    cold = replayed(plant, None)
    assert cold.digests != before[0].digests
    assert cold.notes == ("partitions 0, 1 begin where their log does now",)
    assert after[0].notes == ()
    assert all(end < newest[int(p)] for p, (_, end) in after[0].archived.items())


def test_provenance_names_what_came_from_the_archive(kafka: str, tmp_path: Path) -> None:
    """Per partition the offsets read from the archive, warm-up included; the rest came from the topic."""
    plant = raw_topic(kafka, "kept-ranges")
    fill(plant, 0, 30)
    reached = ends(plant)
    archive(plant, tmp_path)
    fill(plant, 30, 45)
    delete_before(plant, {0: 10})
    whole, warm = replayed(plant, tmp_path), replayed(plant, tmp_path, begin=MIDNIGHT, state="warmup=1h")
    assert whole.archived == warm.archived == {str(p): (0, end) for p, end in reached.items()}
    late = datetime.fromtimestamp((MIDNIGHT_MS + 15_000) / 1000, UTC).isoformat()
    assert replayed(plant, tmp_path, begin=late).archived == {}
    assert loaded(whole.as_json()) == whole
    older = {name: value for name, value in orjson.loads(whole.as_json()).items() if name != "archived"}
    assert loaded(orjson.dumps(older)).archived == {}


def test_a_hole_is_refused_before_anything_is_read(kafka: str, tmp_path: Path) -> None:
    """What neither archive nor topic has is named with its partition and offsets; so is an archive of another topic."""
    plant = raw_topic(kafka, "kept-hole")
    fill(plant, 0, 20)
    archive(plant, tmp_path)
    end = ends(plant)[1]
    fill(plant, 20, 40)
    delete_before(plant, {1: end + 3})
    with pytest.raises(SourceError, match=rf"partition 1: offsets {end} to {end + 2} are not there"):
        replayed(plant, tmp_path)
    other = raw_topic(kafka, "kept-other")
    with pytest.raises(SourceError, match=r"--archive .*is an archive of kept-hole\.raw, not of kept-other\.raw"):
        replayed(other, tmp_path)
    with pytest.raises(SourceError, match="--archive"):
        replayed(plant, tmp_path / "nothing")
    with pytest.raises(SpanError, match="has no record in that span"):
        replayed(other, None)


def test_the_command_reads_an_archive(kafka: str, tmp_path: Path) -> None:
    """`twin replay --archive` writes a run whose run.json names the archive's offsets; a damaged file is one line."""
    plant = partly_archived(kafka, "kept-cli", tmp_path / "archive")
    delete_before(plant, {0: 10, 1: 10})
    config = tmp_path / "plant.toml"
    config.write_text(f'[kafka]\nbootstrap = "{kafka}"\nprefix = "kept-cli"\npartitions = {PARTITIONS}\n')
    command = ["replay", "--from", "beginning", "--to", "now", "--config", str(config), "--to-where", "parquet",
               "--archive", str(tmp_path / "archive"), "--out", str(tmp_path), "--workers", "1"]  # fmt: skip
    done = CliRunner().invoke(app, [*command, "--run", "a"])
    assert done.exit_code == 0, done.output
    found = loaded((tmp_path / "a/run.json").read_bytes())
    assert set(found.archived) == {"0", "1"}
    for file in (tmp_path / "archive/raw").rglob("part-*.parquet"):
        file.unlink()
    wrong = CliRunner().invoke(app, [*command, "--run", "b"])
    assert wrong.exit_code == 1
    assert "cannot be read:" in wrong.output and "twin archive --verify" in wrong.output
    assert "Traceback" not in wrong.output
