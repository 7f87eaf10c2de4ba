import pytest

from replay.fold.lane import within
from replay.fold.snapshots import Found, LiveRows, fitting, live_snapshots
from replay.sources import topic
from replay.sources.span import Part, Span
from replay.sources.topic import NoAnswer, Reader
from runtime.config import Kafka
from services.processes import free_port


def row(position: int, seq: int, source: str = "a", epoch: int = 1) -> Found:
    """A row that has applied one source's frames up to `seq`."""
    return Found(offset=position, position=position, applied={(source, epoch): seq})


def test_the_newest_rows_that_fit_are_taken() -> None:
    """Every stage has applied what the stage before it has; of all such rows the twin's newest, then the others'."""
    validation = [row(10, 4), row(20, 9), row(30, 14)]
    estimation = [row(3, 3), row(9, 9), row(13, 13)]
    twin = [row(2, 2), row(10, 10)]
    assert fitting([validation, estimation, twin], 100) == (validation[1], estimation[1], twin[1])


def test_rows_after_the_beginning_do_not_count() -> None:
    """A validation row that has applied the first offset of the span or a later one is none of before it."""
    rows = [[row(10, 1), row(20, 2)], [row(1, 5)], [row(1, 5)]]
    assert fitting(rows, 20) == (rows[0][0], rows[1][0], rows[2][0])
    assert fitting(rows, 10) is None


def test_a_row_that_was_written_late_is_not_the_newest() -> None:
    """The greatest position is the state, wherever its row stands in the changelog."""
    late = [row(20, 2), row(10, 1)]
    assert fitting([late, [row(2, 2)], [row(2, 2)]], 100) == (late[0], row(2, 2), row(2, 2))


def test_without_a_row_of_every_stage_there_is_no_state() -> None:
    """A stage without rows, or with rows that are behind the stage before it, gives nothing."""
    assert fitting([[row(1, 1)], [], [row(1, 1)]], 9) is None
    assert fitting([[row(1, 5)], [row(1, 4)], [row(1, 4)]], 9) is None
    assert fitting([[row(1, 1)], [row(1, 1, "b")], [row(1, 1, "b")]], 9) is None


def test_every_source_must_be_as_far() -> None:
    """A frame of any source that is applied before must be applied after."""
    assert within({("a", 1): 3}, {("a", 1): 3, ("b", 1): 0})
    assert not within({("a", 1): 3, ("b", 1): 1}, {("a", 1): 9, ("b", 1): 0})
    assert not within({("a", 2): 0}, {("a", 1): 9})


@pytest.mark.timeout(20)
def test_a_kafka_that_goes_away_ends_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows that do not come are waited for as long as any records, not for ever: the error says which are missing."""
    monkeypatch.setattr(topic, "SILENCE_S", 0.3)
    monkeypatch.setattr(Reader, "spans", lambda self, name: {0: (0, 10)})  # as it was when it was still there
    kafka = Kafka(bootstrap=f"127.0.0.1:{free_port()}")
    span = Span(from_ms=None, to_ms=None, parts={0: Part(5, 10, 0)})
    with pytest.raises(NoAnswer, match=r"changelog: .* partitions 0 at 0"):
        live_snapshots(kafka, span)
    with pytest.raises(NoAnswer, match=r"changelog: .* partitions 0 at 0"):
        LiveRows(kafka, {0: ["R101"]})
