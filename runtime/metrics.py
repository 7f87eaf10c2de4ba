"""Metrics of this process, in Prometheus's text format; `runtime/probes.py` serves them over HTTP on loopback.

The names are shared by all processes so that `twin status` and a dashboard can read any of them alike.
"""

from prometheus_client import Counter, Gauge, Histogram

FRAMES = Counter("twin_frames", "frames completed (confirmed by the next hop)")
READINGS = Counter("twin_readings", "readings completed (confirmed by the next hop)")
REJECTED = Counter("twin_rejected", "things sent to the topic of rejected records")
REPEATED = Counter("twin_repeated", "repeated readings or frames that were dropped")
REDUCED = Counter("twin_reduced", "readings left out by edge reduction (deadband, swinging door)")
LOST_FRAMES = Counter("twin_lost_frames", "holes seen in the sequence numbers of frames")
GAPS = Counter("twin_gaps", "gap frames written")
SPOOL_FRAMES = Gauge("twin_spool_frames", "records in the connector's disk spool")
SPOOL_BYTES = Gauge("twin_spool_bytes", "size of what is in the connector's disk spool")
SPOOL_DROPPED = Counter("twin_spool_dropped", "readings that the disk spool gave up for gap frames (bound, age)")
RETRIES = Counter("twin_retries", "attempts repeated because a dependency did not answer", ["dependency"])
SPLIT = Counter("twin_split_requests", "requests refused for what was in them, written again in halves", ["dependency"])
HEALTHY = Gauge("twin_healthy", "1 while the process makes progress or has nothing to do")
CONNECTED = Gauge(
    "twin_connected", "1 while a part works: connected to kafka, mqtt, opcua, influxdb; assigned; advancing", ["peer"]
)
LAG_FRAMES = Gauge("twin_lag_frames", "frames waiting in the assigned partitions of the input topic")
LAST_READING_TIME = Gauge(
    "twin_last_reading_time_seconds", "arrival time of the newest reading completed, s since 1970"
)
ASSIGNED_PARTITIONS = Gauge("twin_assigned_partitions", "partitions of the input topics that this process works on")
STANDSTILL = Gauge("twin_standstill_seconds", "s since an agent's work last advanced while records wait; else 0")
LAST_COMMIT_TIME = Gauge(
    "twin_last_commit_time_seconds",
    "when an agent last acknowledged input or Kafka last confirmed a connector's record, s since 1970",
)
UNCONFIRMED = Gauge("twin_unconfirmed_records", "records handed to Kafka by a connector and not confirmed yet")
STORED_AFTER = Histogram(
    "twin_stored_after_seconds",
    "from the arrival of a frame's oldest reading to InfluxDB's answer; one observation per frame",
    buckets=(0.01, 0.025, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.75, 1.0, 2.5, 5.0, 10.0),
)
