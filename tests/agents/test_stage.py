"""What a stage makes of its changelog and its positions when partitions are assigned."""

from types import SimpleNamespace
from typing import Any

import pytest

from agents import stage
from agents.lookback import IsFrame
from agents.ownership import Partition, Positions
from agents.stage import StageWorker
from runtime.changelog import Recovered, Row, pack
from runtime.config import Plant
from runtime.partitions import home_partition
from schemas.codec import encode
from schemas.topics import RAW
from tests.agents.counting import COUNTING, frame

TP = Partition("twin.raw", home_partition(b"R1", Plant().kafka.partitions))
FRAME = encode(frame("R1", 0))


class _Case:
    """A worker of the counting stage whose changelog holds rows of R1, R2, … in one partition at these positions."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *row_positions: int) -> None:
        self.deleted: list[tuple[Partition, int]] = []
        rows = {f"R{n}".encode(): pack(Row(p, COUNTING.initial(f"R{n}"))) for n, p in enumerate(row_positions, 1)}
        recovered = Recovered(rows, dict.fromkeys(rows, TP.partition), frozenset(), len(rows))
        monkeypatch.setattr(stage, "recover", lambda *_: recovered)
        monkeypatch.setattr(stage, "state_table", lambda *_: SimpleNamespace(data=SimpleNamespace(data={})))
        process: Any = SimpleNamespace(
            app=None,
            plant=Plant(),
            outbox=None,
            ownership=SimpleNamespace(commit=None),
            watchdog=SimpleNamespace(refuse_zombie=None),
            tell_deleted=self._tell_deleted,
        )
        self._worker = StageWorker(
            process, stage=COUNTING, source=RAW, outputs=lambda _: [], params=None, fail_point=lambda _: None
        )

    async def _tell_deleted(self, tp: Partition, count: int) -> None:
        self.deleted.append((tp, count))

    async def assigned(self, committed: int | None, log_start: int, log_end: int) -> frozenset[Partition]:
        return await self._worker.assigned({TP: Positions(committed=committed, log_start=log_start, log_end=log_end)})


@pytest.mark.parametrize(
    ("row_positions", "committed", "log_start", "told"),
    [
        ((41, 59), None, 70, [(TP, 10)]),
        ((41, 59), None, 60, []),
        ((41, 59), None, 0, []),
        ((41, 59), 60, 70, []),  # told where the positions are asked
        ((-1, -1), None, 70, []),  # rows of a rescale know nothing of this topic's offsets
        ((), None, 70, []),
    ],
)
async def test_what_expired_is_told_where_kafka_has_forgotten_the_group(
    monkeypatch: pytest.MonkeyPatch,
    row_positions: tuple[int, ...],
    committed: int | None,
    log_start: int,
    told: list[tuple[Partition, int]],
) -> None:
    """Kafka forgets the offsets of a group that was away for long; the rows still say up to where it had read."""
    case = _Case(monkeypatch, *row_positions)
    assert await case.assigned(committed, log_start, 100) == frozenset()
    assert case.deleted == told


@pytest.mark.parametrize(
    ("records", "lost"),
    [
        ([(b"R1", b"garbage"), (None, None)], frozenset()),
        ([(b"R2", FRAME)], frozenset()),  # rejected, too: another asset's key
        ([(b"R1", b"garbage"), (b"R1", FRAME)], frozenset({TP})),
    ],
)
async def test_a_state_is_lost_only_where_a_frame_was_taken(
    monkeypatch: pytest.MonkeyPatch, records: list[tuple[bytes | None, bytes | None]], lost: frozenset[Partition]
) -> None:
    """A partition that has held nothing but rejected records has no row, and has lost none."""

    def holds_frame(*place: Any, is_frame: IsFrame, beat: Any) -> bool:
        assert place[2:] == (TP, 2)
        return any(is_frame(key, value) for key, value in records)

    monkeypatch.setattr(stage, "holds_frame", holds_frame)
    assert await _Case(monkeypatch).assigned(2, 0, 2) == lost
