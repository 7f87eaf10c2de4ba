"""Lag and rate of every process: from Kafka's offsets and from the processes' own metrics, sampled twice."""

import logging
import time
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from confluent_kafka import ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec

from runtime.config import Kafka
from runtime.generations import at_work
from runtime.kafka import client_settings
from schemas.topics import ALERTS, ESTIMATES, RAW, STATE, VALIDATED, app_id
from services import supervisor
from services.spec import ProcessStatus

SAMPLE_S = 1.0
INPUTS = {
    "validation": (RAW,),
    "estimation": (VALIDATED,),
    "twin": (ESTIMATES,),
    "sink": (ESTIMATES, STATE, ALERTS),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One process. `lag_frames`: records not yet acknowledged; None for what reads no topic."""

    name: str
    state: str
    pid: int | None
    uptime_s: float
    restarts: int
    cpu_percent: float
    rss_mib: float
    lag_frames: int | None
    readings_per_s: float | None
    healthy: bool | None
    trouble: str

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def snapshot(run_dir: Path, kafka: Kafka) -> list[Row]:
    """One row per process; takes SAMPLE_S seconds. Empty where nothing was ever started.

    Lags are those of the topics at work. Raises KafkaException, PlanError.
    """
    before = {p.name: _metric(p, "twin_readings_total") for p in supervisor.status(run_dir)}
    began = time.monotonic()
    if not before:
        return []
    time.sleep(SAMPLE_S)
    after = supervisor.status(run_dir)
    took_s = time.monotonic() - began
    kafka_runs = all(p.state == "running" for p in after if p.name == "kafka")
    if kafka_runs:
        kafka = at_work(kafka)
    return [
        _row(p, before.get(p.name), took_s, lag_of(kafka, p.name) if kafka_runs and p.name in INPUTS else None)
        for p in after
    ]


def lag_of(kafka: Kafka, stage: str) -> int:
    """Records of the stage's input topics that its group has not acknowledged."""
    admin = _admin(kafka)
    partitions = [
        TopicPartition(topic.full_name(kafka.prefix), p) for topic in INPUTS[stage] for p in range(kafka.partitions)
    ]
    group = ConsumerGroupTopicPartitions(app_id(stage, kafka.prefix), partitions)
    committed = next(iter(admin.list_consumer_group_offsets([group]).values())).result().topic_partitions
    ends = admin.list_offsets({p: OffsetSpec.latest() for p in partitions})
    starts = admin.list_offsets({p: OffsetSpec.earliest() for p in partitions})
    done = {(p.topic, p.partition): p.offset for p in committed}
    total = 0
    for place, end in ends.items():
        start = starts[place].result().offset
        total += end.result().offset - max(done.get((place.topic, place.partition), -1), start)
    return total


@cache
def _admin(kafka: Kafka) -> AdminClient:
    """One client for all samples: each would bring threads and connections of its own."""
    # librdkafka's own lines would tear the live table; a broker that is away shows in the states of the processes.
    return AdminClient(client_settings(kafka), logger=logging.getLogger("librdkafka"))


def _row(process: ProcessStatus, readings_before: float | None, took_s: float, lag_frames: int | None) -> Row:
    readings = _metric(process, "twin_readings_total")
    healthy = _metric(process, "twin_healthy")
    known = readings is not None and readings_before is not None and not process.is_service
    return Row(
        name=process.name,
        state=process.state,
        pid=process.pid,
        uptime_s=process.uptime_s,
        restarts=process.restarts,
        cpu_percent=process.cpu_percent,
        rss_mib=process.rss_mib,
        lag_frames=lag_frames,
        readings_per_s=max(0.0, (readings - readings_before) / took_s) if known else None,  # type: ignore[operator]
        healthy=None if healthy is None else not process.trouble,
        trouble=process.trouble,
    )


def _metric(process: ProcessStatus, name: str) -> float | None:
    return next((s.value for s in process.samples if s.name == name), None)
