"""The provenance of a run, as it was published."""

from replay.results.provenance import Provenance, loaded, runs_topic
from replay.sources.span import SpanError
from replay.sources.topic import Reader
from runtime.config import Kafka


def published(reader: Reader, kafka: Kafka, run: str) -> Provenance | None:
    """The newest provenance of a run; None where there is none. Raises as `newest`, ValueError for what is none."""
    found = newest(reader, kafka, run)
    return None if found is None else loaded(found)


def newest(reader: Reader, kafka: Kafka, run: str) -> bytes | None:
    """The same as it stands in the topic of runs. Raises KafkaException, SourceError."""
    name = runs_topic(kafka.configured_prefix)
    try:
        spans = reader.spans(name)
    except SpanError:  # no run has ever been published
        return None
    batches = reader.read(name, spans, wanted=lambda key: key == run.encode(), compacted=True)
    values = [record.value for batch in batches for record in batch]
    return values[-1] if values else None
