"""The gate for schema changes: every version must be readable by every other version of its name.

Both directions, because old and new workers run side by side during a roll-out and after a rollback. fastavro has no
checker, so Avro's own is asked.
"""

import json
from pathlib import Path

from avro.compatibility import ReaderWriterCompatibilityChecker, SchemaCompatibilityType
from avro.schema import parse

from schemas.codec import FOLDER


def incompatibilities(folder: Path = FOLDER) -> list[str]:
    """One sentence per pair of versions that cannot read each other; empty when all is well."""
    by_name: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*.avsc")):
        by_name.setdefault(json.loads(path.read_text("utf-8"))["name"], []).append(path)
    return [
        sentence
        for paths in by_name.values()
        for reader in paths
        for writer in paths
        if reader != writer and (sentence := _problem(reader, writer))
    ]


def _problem(reader: Path, writer: Path) -> str | None:
    result = ReaderWriterCompatibilityChecker().get_compatibility(
        reader=parse(reader.read_text("utf-8")), writer=parse(writer.read_text("utf-8"))
    )
    if result.compatibility is SchemaCompatibilityType.compatible:
        return None
    return f"{reader.name} cannot read what {writer.name} wrote: {'; '.join(sorted(map(str, result.messages)))}"
