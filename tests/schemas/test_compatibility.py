"""The gate for schema changes, and the table of topics."""

import io
import json
from dataclasses import asdict
from pathlib import Path

import fastavro
import pytest

from schemas import codec
from schemas.compatibility import incompatibilities
from schemas.records import Alert
from schemas.topics import TOPICS

#: Every schema version ever released, by fingerprint. A released version is never edited; a change is a new file.
RELEASED: dict[str, str] = json.loads((Path(__file__).parent / "released_fingerprints.json").read_text("utf-8"))


def test_all_versions_read_each_other() -> None:
    """Every version of a schema can be read by every other, in both directions."""
    assert incompatibilities() == []


def test_gate_refuses_a_field_without_default(tmp_path: Path) -> None:
    """A new version that adds a field without a default is refused, and the sentence names both files."""
    old = json.loads((codec.FOLDER / "alert.v1.avsc").read_text("utf-8"))
    new = {**old, "fields": [*old["fields"], {"name": "owner", "type": "string"}]}
    (tmp_path / "alert.v1.avsc").write_text(json.dumps(old))
    (tmp_path / "alert.v2.avsc").write_text(json.dumps(new))
    problems = incompatibilities(tmp_path)
    assert len(problems) == 1
    assert "alert.v2.avsc cannot read what alert.v1.avsc wrote" in problems[0]


def test_gate_accepts_a_field_with_default(tmp_path: Path) -> None:
    """A new version that adds a field with a default passes in both directions."""
    old = json.loads((codec.FOLDER / "alert.v1.avsc").read_text("utf-8"))
    new = {**old, "fields": [*old["fields"], {"name": "owner", "type": "string", "default": ""}]}
    (tmp_path / "alert.v1.avsc").write_text(json.dumps(old))
    (tmp_path / "alert.v2.avsc").write_text(json.dumps(new))
    assert incompatibilities(tmp_path) == []


def test_a_version_to_come_is_read_but_not_written(tmp_path: Path) -> None:
    """`….v2.next.avsc` is known by its fingerprint while v1 is written; without `.next` it is the one written."""
    old = json.loads((codec.FOLDER / "alert.v1.avsc").read_text("utf-8"))
    new = {**old, "fields": [*old["fields"], {"name": "owner", "type": "string", "default": ""}]}
    (tmp_path / "alert.v1.avsc").write_text(json.dumps(old))
    coming = tmp_path / "alert.v2.next.avsc"
    coming.write_text(json.dumps(new))
    assert [(v.number, v.newest) for v in codec.versions_in(tmp_path)] == [(1, True), (2, False)]
    assert incompatibilities(tmp_path) == []
    coming.rename(tmp_path / "alert.v2.avsc")
    assert [(v.number, v.newest) for v in codec.versions_in(tmp_path)] == [(1, False), (2, True)]


def test_what_another_release_wrote_is_the_same_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A record in a version that is read but not written is, written anew, what this release would have written."""
    alert = Alert(asset="R1", kind="gap", severity="warning", time_ns=1, message="a hole")
    old = codec.versions_in(codec.FOLDER)
    schema = json.loads((codec.FOLDER / "alert.v1.avsc").read_text("utf-8"))
    schema["fields"].append({"name": "owner", "type": "string", "default": "nobody"})
    parsed = fastavro.parse_schema(schema)
    fingerprint = bytes.fromhex(fastavro.schema.fingerprint(json.dumps(schema), "CRC-64-AVRO"))
    v2 = codec.Version(name="Alert", number=2, newest=False, parsed=parsed, fingerprint=fingerprint)
    by_fingerprint = {v.fingerprint: v for v in (*old, v2)}
    monkeypatch.setattr(codec, "_by_fingerprint", lambda: by_fingerprint)
    now = codec.encode(alert)
    body = io.BytesIO()
    fastavro.schemaless_writer(body, parsed, asdict(alert) | {"owner": "somebody"})
    coming = codec.MARKER + fingerprint + body.getvalue()
    assert codec.as_written_now(coming) == now
    assert codec.as_written_now(now) is now


def test_released_schemas_are_never_edited() -> None:
    """Every released version still has its fingerprint: what was written can be read for ever."""
    assert {f"{v.name} v{v.number}": v.fingerprint.hex() for v in codec.versions()} == RELEASED


def test_topics_have_distinct_names_and_known_records() -> None:
    """Every topic has its own name, and its record type has a schema that is written."""
    names = [t.full_name() for t in TOPICS]
    assert len(set(names)) == len(names)
    assert {t.record.schema for t in TOPICS} <= {v.name for v in codec.versions() if v.newest}


def test_only_changelogs_are_compacted() -> None:
    """Data topics are deleted by age, changelogs compacted only: a delete marker would hang a recovery."""
    policies = {t.full_name(): t.settings()["cleanup.policy"] for t in TOPICS}
    assert {name for name, policy in policies.items() if policy == "compact"} == {
        "twin-validation-rows-changelog",
        "twin-estimation-rows-changelog",
        "twin-twin-rows-changelog",
    }
