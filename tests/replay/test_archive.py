"""The archive against a real broker: nothing lost, nothing doubled, and every damage named."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition
from confluent_kafka.admin import AdminClient
from pyarrow import parquet
from typer.testing import CliRunner

from cli.main import app
from replay.archive.check import problems
from replay.archive.manifest import NAME, ArchiveError, day_of, escaped, load
from replay.archive.reading import Archive
from replay.archive.writing import archive
from replay.sources import span
from replay.sources.joined import JoinedSource, bounds, first_offsets
from replay.sources.records import RawRecord
from replay.sources.topic import LostRecords, spans_of
from runtime.config import Kafka
from schemas.topics import RAW
from tests.replay.raw_topic import ASSETS, MIDNIGHT_MS, PARTITIONS, everything, fill, raw_topic

CHUNK_BYTES = 9000
BEFORE, AFTER = day_of(MIDNIGHT_MS - 1), day_of(MIDNIGHT_MS)
ROOT = Path(__file__).parent.parent.parent
pytestmark = pytest.mark.services


def contents(folder: Path) -> list[RawRecord]:
    """All records of an archive, by partition and offset."""
    found = Archive(folder)
    return [record for p in range(PARTITIONS) for record in found.records(p, *found.has(p))]


def delete_before(kafka: Kafka, offsets: dict[int, int]) -> None:
    """What retention does: the first records of partitions are gone."""
    admin = AdminClient({"bootstrap.servers": kafka.address})
    places = [TopicPartition(RAW.full_name(kafka.prefix), p, offset) for p, offset in offsets.items()]
    for deleted in admin.delete_records(places).values():
        deleted.result(30)


def whole(kafka: Kafka) -> dict[int, tuple[int, int]]:
    """Spans from offset 0 to the end."""
    return {p: (0, end) for p, (_, end) in spans_of(kafka, RAW.full_name(kafka.prefix)).items()}


def joined(kafka: Kafka, folder: Path, assets: Sequence[str] = ()) -> list[RawRecord]:
    """Everything from offset 0 on, from archive and topic, in the order it comes."""
    with closing(JoinedSource(kafka, Archive(folder), assets)) as source:
        return [r for p, span in whole(kafka).items() for batch in source.read(p, *span) for r in batch]


def test_archive_has_every_byte_and_goes_on_behind_itself(kafka: str, tmp_path: Path) -> None:
    """Each record once with its own bytes, in files by day and asset; a second run adds only what came since."""
    plant = raw_topic(kafka, "arch-whole")
    fill(plant, 0, 40)
    added = archive(plant, tmp_path, chunk_bytes=CHUNK_BYTES)
    assert added.records == 40 * len(ASSETS) + 4
    assert added.readings == 40 * len(ASSETS) * 4
    assert contents(tmp_path) == everything(plant)
    days = {path.name for path in (tmp_path / "raw").iterdir()}
    assert days == {f"day={BEFORE}", f"day={AFTER}"}
    folders = {path.name for path in (tmp_path / f"raw/day={BEFORE}").iterdir()}
    assert folders == {
        "asset=R-1",
        "asset=R-2",
        "asset=werk%2Fs%C3%BCd%203",
        "asset=%5Funreadable",
        "asset=_unreadable",
    }
    assert archive(plant, tmp_path).records == 0
    fill(plant, 40, 45)
    assert archive(plant, tmp_path).records == 5 * len(ASSETS) + 1
    assert contents(tmp_path) == everything(plant)
    assert list(problems(tmp_path)) == []


def test_other_tools_read_the_files(kafka: str, tmp_path: Path) -> None:
    """The folder is a data set with partitions as pandas, DuckDB and Spark know them, with what one filters by."""
    plant = raw_topic(kafka, "arch-tools")
    fill(plant, 0, 30)
    archive(plant, tmp_path)
    table = parquet.read_table(tmp_path / "raw", filters=[("day", "=", AFTER), ("frame_asset", "=", "R-2")])
    assert table.column("readings").to_pylist() == [4] * 10
    assert set(table.column("kind").to_pylist()) == {"readings"}
    first = table.column("first_arrival_time_ns").to_pylist()
    assert first == sorted(first)


@pytest.mark.soak
def test_kill_at_any_moment_loses_and_doubles_nothing(kafka: str, tmp_path: Path) -> None:
    """Killed before and after fsyncs and renamings, what the manifest says is there; the next run completes it."""
    plant = raw_topic(kafka, "arch-kill")
    fill(plant, 19, 22)
    wanted = everything(plant)
    command = [sys.executable, "-m", "tests.replay.archive_worker", kafka, "arch-kill", str(tmp_path)]
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([*command, "1", "11"], check=True, env=env, timeout=200)
    folders = sorted(tmp_path.iterdir())
    assert len(folders) > 4
    killed = [folder for folder in folders if (folder / NAME).exists()]
    for folder in killed:
        assert all("is not in the manifest" in problem for problem in problems(folder))
        assert set(contents(folder)) <= set(wanted)
    assert len({len(contents(folder)) for folder in killed}) > 2
    subprocess.run(command, check=True, env=env, timeout=200)
    for folder in folders:
        assert contents(folder) == wanted
        assert list(problems(folder)) == []
        assert not list(folder.rglob("*.partial"))


def test_archive_and_topic_are_one_log(kafka: str, tmp_path: Path) -> None:
    """Where retention has taken the older part and the archive lacks the newer, both together give each record once."""
    plant = raw_topic(kafka, "arch-join")
    fill(plant, 0, 30)
    archive(plant, tmp_path, chunk_bytes=CHUNK_BYTES)
    fill(plant, 30, 40)
    wanted = everything(plant)
    times = [MIDNIGHT_MS - 15_500, MIDNIGHT_MS, MIDNIGHT_MS + 12_000, MIDNIGHT_MS + 10**6]
    found = Archive(tmp_path)
    before = [span.first_offsets(plant, RAW.full_name(plant.prefix), time_ms) for time_ms in times]
    delete_before(plant, {0: 20, 1: 50})
    assert joined(plant, tmp_path) == wanted
    assert bounds(plant, found) == whole(plant)
    assert [first_offsets(plant, time_ms, found) for time_ms in times] == before
    only = joined(plant, tmp_path, ["R-2", "werk*"])
    assert only == [r for r in wanted if r.key not in {b"R-1", b"_unreadable"}]


def test_a_hole_is_named(kafka: str, tmp_path: Path) -> None:
    """What neither has is refused before the first record, with partition and offsets; so is archiving over it."""
    plant = raw_topic(kafka, "arch-hole")
    fill(plant, 0, 20)
    archive(plant, tmp_path)
    ends = whole(plant)
    fill(plant, 20, 40)
    end = ends[0][1]
    delete_before(plant, {0: end + 3})
    message = rf"partition 0: offsets {end} to {end + 2} "
    with pytest.raises(LostRecords, match=message + "are not there"):
        joined(plant, tmp_path)
    with pytest.raises(LostRecords, match=message + "are not there"):
        bounds(plant, Archive(tmp_path))
    with pytest.raises(LostRecords, match=message + "were deleted before they were archived"):
        archive(plant, tmp_path)
    assert list(problems(tmp_path)) == []


def test_another_topic_is_refused(kafka: str, tmp_path: Path) -> None:
    """A topic of another name, or made anew under the same, does not go into the archive of the old one."""
    plant = raw_topic(kafka, "arch-anew")
    fill(plant, 0, 5)
    archive(plant, tmp_path)
    with pytest.raises(ArchiveError, match=r"is an archive of arch-anew\.raw, not of"):
        archive(raw_topic(kafka, "arch-other"), tmp_path)
    admin = AdminClient({"bootstrap.servers": kafka})
    admin.delete_topics(["arch-anew.raw"])["arch-anew.raw"].result(30)
    raw_topic(kafka, "arch-anew")
    fill(plant, 0, 9)
    with pytest.raises(ArchiveError, match="was made anew"):
        archive(plant, tmp_path)


def test_damage_is_named(kafka: str, tmp_path: Path) -> None:
    """A bit, a missing file, a file doubled in the manifest: each is named by --verify, and nothing else."""
    plant = raw_topic(kafka, "arch-damage")
    fill(plant, 0, 10)
    archive(plant, tmp_path)
    first, second, *_ = load(tmp_path).files
    intact = (tmp_path / first.path).read_bytes()
    (tmp_path / first.path).write_bytes(intact[:100] + bytes([intact[100] ^ 4]) + intact[101:])
    found = list(problems(tmp_path))
    assert f"{first.path} is damaged" in found[0]
    assert all(p.startswith(f"partition {first.partition}: offsets") and p.endswith("missing") for p in found[1:])
    (tmp_path / first.path).write_bytes(intact)
    (tmp_path / second.path).rename(tmp_path / "elsewhere")
    assert next(problems(tmp_path)) == f"{second.path} cannot be read: No such file or directory"
    (tmp_path / "elsewhere").rename(tmp_path / second.path)
    manifest = json.loads((tmp_path / NAME).read_text())
    manifest["files"].append(manifest["files"][0])
    (tmp_path / NAME).write_text(json.dumps(manifest))
    found = list(problems(tmp_path))
    assert found
    assert all(p.endswith("are there more than once") for p in found)


def test_names_of_folders_are_safe() -> None:
    """An asset's folder never leaves the archive, hides, nor meets another's; however long its name is."""
    names = ["..", "../x", ".hidden", "_unreadable", "a/b", "a b", "a%2Fb", "é", "x" * 300, "x" * 301, "a=b", "a"]
    folders = [escaped(name) for name in names]
    assert len(set(folders)) == len(names)
    assert all("/" not in f and f[0] not in "._" and len(f) <= 240 for f in folders)


def test_the_command_archives_and_verifies(kafka: str, tmp_path: Path) -> None:
    """`twin archive` says what it added, `--verify` that all is well, and both leave with 1 where it is not."""
    plant = raw_topic(kafka, "arch-cli")
    fill(plant, 0, 5)
    config, folder = tmp_path / "plant.toml", tmp_path / "archive"
    config.write_text(f'[kafka]\nbootstrap = "{kafka}"\nprefix = "arch-cli"\npartitions = {PARTITIONS}\n')
    command = ["archive", str(folder), "--config", str(config)]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert f"{5 * len(ASSETS) + 1} records, {5 * len(ASSETS) * 4} readings added" in done.output
    assert CliRunner().invoke(app, [*command, "--verify"]).exit_code == 0
    (folder / load(folder).files[0].path).unlink()
    wrong = CliRunner().invoke(app, [*command, "--verify"])
    assert wrong.exit_code == 1
    assert "cannot be read: No such file or directory" in wrong.output
    (folder / NAME).unlink()
    assert CliRunner().invoke(app, command).exit_code == 1
