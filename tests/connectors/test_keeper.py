"""The keeper of the spool alone: what it does with records while Kafka is away, and with a disk that fails it."""

import errno
import threading
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest

from connectors.delivery import Delivery, Spooling
from connectors.keeper import Keeper
from connectors.producer import Record
from runtime.config import Spool
from runtime.health import Health
from schemas.codec import decode, encode
from schemas.frames import Frame, Gap
from tests.connectors.test_delivery import frame_of


class Lock(threading.Condition):
    """Delivery's lock. `first` is what another thread does with it, once, before the next one who asks gets it."""

    first: Callable[[], object] | None = None

    def __enter__(self) -> bool:
        """Take it."""
        first, self.first = self.first, None
        if first is not None:
            first()
        return super().__enter__()

    def notify_all(self) -> None:
        """There is one thread."""


class Away:
    """A Delivery whose Kafka confirms nothing until it is told to."""

    def __init__(self) -> None:
        self.changed = Lock()
        self.health = Health()
        self.losses: deque[Gap] = deque()
        self.alerts: list[str] = []
        self.away = True
        self.passed: list[Record] = []
        self.beats = 0

    def beat(self) -> None:
        """The keeper is not stuck."""
        self.beats += 1

    def tell_safe(self, records: list[Record]) -> None:
        """They are."""
        for record in records:
            record.safe = True

    def on_the_way(self) -> list[Record]:
        """What the client has."""
        return self.passed

    def pass_on(self, record: Record) -> None:
        """One more for the client."""
        self.passed.append(record)

    def alert(self, message: str, _time_ns: int) -> None:
        """To be written."""
        self.alerts.append(message)

    def account(self, _size_bytes: int) -> None:
        """Nobody counts."""

    def doubt(self) -> None:
        """It is away already."""

    def feed(self) -> None:
        """The client takes nothing."""


@pytest.fixture
def away() -> Away:
    """Kafka, not there."""
    return Away()


def keeper_in(directory: Path, away: Away, drops: bool = False) -> Keeper:
    """A keeper that takes over at once; `drops`: the field cannot wait."""
    limits = Spool(after_s=0.1)
    spooling = Spooling(directory=directory, connector_id="c", limits=limits, drops=drops)
    keeper = Keeper(cast(Delivery, away), spooling)
    keeper.hurry()
    return keeper


def record(asset: str, value: float = 1.0) -> Record:
    """A frame with one reading, on its way."""
    frame = frame_of(asset, value)
    return Record("raw", asset, encode(frame), lambda: None, frame)


def readings(keeper: Keeper) -> list[float]:
    """The values of all readings in the spool, in order; a gap frame has none."""
    frames = [decode(row.value) for row in keeper._spool.read(0, 1000, 1 << 30)]
    return [float(value) for frame in frames if isinstance(frame, Frame) for value in frame.value]


def test_what_is_being_written_is_not_merged(tmp_path: Path, away: Away) -> None:
    """When the memory is full at the very moment when records are on the disk and not yet out of the memory, they stay
    what they are, and what came behind them is written as well."""
    keeper = keeper_in(tmp_path, away, drops=True)
    keeper.keep(record("R1", 0.0))
    keeper.tend()  # takes over
    sent = [record("R1", value) for value in (1.0, 2.0, 3.0)]
    for one in sent[:2]:
        keeper.keep(one)
    append = keeper._spool.append

    def written(records: list[tuple[str, str, bytes]], now_ns: int) -> int:
        row = append(records, now_ns)
        keeper.keep(sent[2])
        away.changed.first = keeper.make_room
        return row

    keeper._spool.append = written  # type: ignore[assignment, method-assign]
    keeper.tend()
    keeper._spool.append = append  # type: ignore[method-assign]
    assert away.changed.first is None, "nobody came between"
    keeper.tend()
    assert readings(keeper) == [0.0, 1.0, 2.0, 3.0]
    assert all(one.safe for one in sent)
    assert keeper.make_room() is False, "nothing is left to merge"
    keeper.close()


def read_only(*_args: object, **_more: object) -> int:
    """What a disk that was mounted read-only says, even of a file that is not there."""
    raise OSError(errno.EROFS, "Read-only file system")


def test_a_read_only_disk_is_told_and_waited_for(tmp_path: Path, away: Away, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that takes nothing, not even a deletion, does not end the process: it is unhealthy, records stay in the
    memory, and when it takes them again the spool goes on."""
    keeper = keeper_in(tmp_path, away)
    keeper.keep(sent := record("R1"))
    with monkeypatch.context() as now:
        now.setattr("connectors.spool.os.open", read_only)
        now.setattr(Path, "unlink", read_only)
        keeper.tend()
        keeper.tend()
    assert "Read-only" in away.health.reason("spool")
    assert not sent.safe
    keeper._retry_at_s = 0.0
    keeper.tend()
    assert sent.safe
    assert not away.health.reason("spool")
    keeper.close()


def test_a_spool_that_cannot_be_deleted_is_deleted_later(
    tmp_path: Path, away: Away, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When Kafka has everything but the disk has become read-only, that is told, and tried again without haste."""
    keeper = keeper_in(tmp_path, away)
    keeper.keep(record("R1"))
    keeper.tend()
    away.away = False
    keeper.tend()  # from now on without the spool
    with monkeypatch.context() as now:
        now.setattr(Path, "unlink", read_only)
        keeper.tend()
        assert "Read-only" in away.health.reason("spool")
        began_s = time.monotonic()
        keeper.tend()
        assert time.monotonic() - began_s > 0.01, "it waits"
    assert list(tmp_path.iterdir())
    keeper._retry_at_s = 0.0
    keeper.tend()
    assert not list(tmp_path.iterdir())
    assert not away.health.reason("spool")


def test_a_rescue_is_no_standstill(tmp_path: Path, away: Away) -> None:
    """While rows of a damaged file are saved, the keeper's thread shows that it goes on; what is lost is told."""
    keeper = keeper_in(tmp_path, away)
    keeper.keep(record("R1", 1.0))
    keeper.tend()
    keeper.keep(record("R1", 2.0))
    keeper.keep(record("R1", 3.0))
    keeper.tend()
    keeper._spool._ask("UPDATE records SET value = '' WHERE id = 2")
    keeper.tend()
    assert away.beats > 0
    assert [gap.cause for gap in away.losses] == ["spool: damaged"]
    assert readings(keeper) == [1.0, 3.0]
    keeper.close()
