"""The Faust application of one agent: settings, Kafka security, its table. Knows Faust; knows nothing of frames."""

import ssl
import tempfile
from typing import Any

import faust
from aiokafka.helpers import create_ssl_context
from faust.sensors.monitor import Monitor

from agents.consumption import ExactTableManager, Transport
from agents.ownership import Ownership
from runtime.config import Kafka, Plant
from schemas.topics import MAX_RECORD_BYTES, Topic, app_id

DAY_S = 86_400.0
BUFFER_RECORDS = 512
RAW_BYTES = {"key_type": bytes, "value_type": bytes, "key_serializer": "raw", "value_serializer": "raw"}
TABLE = "rows"


class Application(faust.App):  # type: ignore[misc]
    """A Faust application whose consumer answers to an `Ownership`."""

    ownership: Ownership

    def _new_transport(self) -> Any:
        return Transport(self.conf.broker_consumer, self)


class QuietMonitor(Monitor):  # type: ignore[misc]
    """Faust's monitor without its statistics per event; ours are in `runtime/metrics.py`."""

    def on_message_in(self, tp: Any, offset: int, message: Any) -> None:
        """Not counted."""

    def on_stream_event_in(self, tp: Any, offset: int, stream: Any, event: Any) -> None:
        """Not counted."""

    def on_stream_event_out(self, tp: Any, offset: int, stream: Any, event: Any, state: Any = None) -> None:
        """Not counted."""

    def on_message_out(self, tp: Any, offset: int, message: Any) -> None:
        """Not counted."""

    def track_tp_end_offset(self, tp: Any, offset: int) -> None:
        """Not kept."""


def application(plant: Plant, name: str, ownership: Ownership) -> Application:
    """The application of agent `name`; its consumer group is `schemas.topics.app_id`."""
    kafka, session_s = plant.kafka, plant.agents.session_timeout_s
    app = Application(
        app_id(name, kafka.prefix),
        broker=[f"kafka://{address.strip()}" for address in kafka.address.split(",")],
        broker_credentials=credentials(kafka),
        store="memory://",
        datadir=tempfile.gettempdir(),  # nothing is written there: the store is memory
        web_enabled=False,
        Monitor=QuietMonitor,
        TableManager=ExactTableManager,
        cython_optimizations=True,
        topic_partitions=kafka.partitions,
        topic_replication_factor=kafka.replication,
        topic_allow_declare=False,  # they come from the table of topics
        topic_disable_leader=True,
        table_standby_replicas=0,
        broker_session_timeout=session_s,
        broker_heartbeat_interval=session_s / 3,
        broker_max_poll_interval=DAY_S,  # who is idle longer leaves and does not come back
        broker_commit_interval=60.0,  # Faust has nothing to commit, see Ownership
        consumer_auto_offset_reset="earliest",
        consumer_max_fetch_size=MAX_RECORD_BYTES,
        producer_max_request_size=MAX_RECORD_BYTES,
        stream_buffer_maxsize=BUFFER_RECORDS,
        stream_recovery_delay=0.0,
        stream_wait_empty=False,  # events may stay unacknowledged across a revocation
        worker_redirect_stdouts=False,
    )
    app.ownership = ownership
    return app


def source_topic(app: Application, plant: Plant, topics: tuple[Topic, ...]) -> Any:
    """The topics an agent reads, as bytes."""
    return app.topic(*(t.full_name(plant.kafka.prefix) for t in topics), partitions=plant.kafka.partitions, **RAW_BYTES)


def state_table(app: Application, plant: Plant, changelog: Topic) -> Any:
    """The table of a stage's rows, as bytes. Its changelog must have the name that the table of topics gives it."""
    table = app.Table(
        TABLE,
        default=bytes,
        key_type=bytes,  # repeated outside the schema: with the schema alone Faust reads the changelog as JSON
        value_type=bytes,
        partitions=plant.kafka.partitions,
        use_partitioner=True,
        schema=faust.Schema(**RAW_BYTES),
    )
    wanted = changelog.full_name(plant.kafka.prefix)
    if table.changelog_topic_name != wanted:
        raise RuntimeError(f"Faust calls the changelog {table.changelog_topic_name}, the table of topics {wanted}")
    return table


def credentials(kafka: Kafka) -> Any:
    """Faust's form of the security settings; None for an open listener."""
    context = _ssl_context(kafka) if kafka.protocol.endswith("SSL") else None
    if kafka.protocol.startswith("SASL"):
        return faust.SASLCredentials(
            username=kafka.user, password=kafka.password, mechanism=kafka.sasl_mechanism, ssl_context=context
        )
    return None if context is None else faust.SSLCredentials(context)


def _ssl_context(kafka: Kafka) -> ssl.SSLContext:
    context: ssl.SSLContext = create_ssl_context(
        cafile=kafka.ca and str(kafka.ca),
        certfile=kafka.certificate_file and str(kafka.certificate_file),
        keyfile=kafka.key_file and str(kafka.key_file),
    )
    return context
