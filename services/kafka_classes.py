"""Kafka's classes as the JVM has parsed them, kept from a first start: with them later brokers are there much sooner.

`python -m bench.kafka_start` says by how much. Where they are missing or of another Java, a broker starts without.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from services.errors import ServiceError
from services.install import kafka_classes, kafka_classes_name
from services.kafka import JVM_OPTIONS, Kafka
from services.toolchain import cache_dir, say

START_S = 120.0


def keep_classes() -> Path:
    """Start a broker once, let the JVM write down what it has loaded, and return that file.

    Raises ServiceError where the broker does not start, or leaves nothing.
    """
    if kept := kafka_classes():
        return kept
    say("kafka: starting it once, so that later starts are short")
    with tempfile.TemporaryDirectory(prefix=".kafka-classes-", dir=cache_dir()) as folder:
        written = Path(folder) / "classes.jsa"
        broker = Kafka(Path(folder) / "kafka", Path(folder) / "kafka.log")
        broker.jvm_options = (*JVM_OPTIONS, f"-XX:ArchiveClassesAtExit={written}")
        broker.start()
        try:
            broker.wait_ready(START_S)
        finally:
            broker.stop(START_S)
        if not written.exists():
            raise ServiceError(
                f"kafka: the JVM has kept no classes:\n{broker.log.read_text('utf-8', 'replace')[-2000:]}"
            )
        for old in cache_dir().glob("kafka-*-classes-*.jsa"):
            old.unlink()  # of another Java, or of other jars
        return written.rename(cache_dir() / f"{kafka_classes_name()}-{written.stat().st_size}.jsa")
