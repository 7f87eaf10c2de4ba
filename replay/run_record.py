"""The provenance of a run, as it was published."""

from replay.provenance import Provenance, loaded, runs_topic
from replay.topic import read, spans_of
from runtime.config import Kafka


def published(kafka: Kafka, run: str, topics: frozenset[str]) -> Provenance | None:
    """The newest record of a run; None where there is none. `topics`: all that Kafka has.

    Raises KafkaException, SourceError, ValueError where the record cannot be read.
    """
    name = runs_topic(kafka.prefix)
    if name not in topics:
        return None
    records = [r for batch in read(kafka, name, spans_of(kafka, name), compacted=True) for r in batch]
    values = [record.value for record in records if record.key == run.encode() and record.value]
    return loaded(values[-1]) if values else None
