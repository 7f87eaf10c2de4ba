"""Leaving the process when going on would be wrong or useless, and the thread that watches for it.

A process that was stopped for longer than its group waits for it (SIGSTOP, a suspended machine) is a zombie: another
one has taken over its partitions. It learns that from Kafka only with its next heartbeat and would write until then,
so it goes by the monotonic clock instead, which runs on while a process is stopped. May not know Faust nor any field.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from typing import NoReturn

from runtime.exit_codes import RESTART_ME
from runtime.health import Health
from runtime.last_resort import LastResort

log = logging.getLogger(__name__)

TICK_S = 0.25
SECOND_LOOK_S = 2.0  # what waits may have come this moment, after a long time of nothing
FORGIVEN_S = 1.0  # the watchdog's own thread came so late: the machine stood still, not the loop alone


def leave(reason: str, code: int = RESTART_ME) -> NoReturn:
    """End this process at once without acknowledging anything, so that a supervisor starts the next one."""
    log.critical("%s; leaving without acknowledging (exit code %d)", reason, code)
    for handler in logging.getLogger().handlers:
        handler.flush()
    os._exit(code)


class Watchdog:
    """Leaves the process when it stood still for `stop_s`, or when something expected did not happen for `patience_s`.

    The loops of `health` must beat. `progress` returns a value that changes whenever work advances. `is_stuck` is
    asked, in the watchdog's thread, only after `patience_s` without progress: it returns the reason, or None where
    there was nothing to do (then patience begins anew). A reason that a second look finds, too, leaves the process.
    `stop_s` None: a process that stood still may go on.
    """

    def __init__(
        self,
        health: Health,
        *,
        patience_s: float,
        stop_s: float | None = None,
        progress: Callable[[], object] = lambda: None,
        is_stuck: Callable[[], str | None] = lambda: None,
        leave: Callable[[str], object] = leave,
    ) -> None:
        self._health = health
        self._stop_s, self._patience_s = stop_s, patience_s
        self._progress, self._is_stuck, self._leave = progress, is_stuck, leave
        self._tick_s = self._moved_s = time.monotonic()
        self._last: object = None
        self._suspected_s: float | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)

    @property
    def standstill_s(self) -> float:
        """Time since work advanced or was said to wait on purpose, in s; whether there was any to do is not asked."""
        return time.monotonic() - self._moved_s

    def start(self) -> None:
        """Begin to watch."""
        self._health.forgive()
        self._health.patience_s = self._patience_s
        self._tick_s = self._moved_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        """Watch no longer."""
        self._stopping.set()

    def heartbeat(self) -> None:
        """Waiting is on purpose: patience begins anew."""
        self._moved_s, self._suspected_s = time.monotonic(), None

    def refuse_zombie(self) -> None:
        """Called before every write that another owner must not see: leaves if this process has stood still."""
        self._check_stop(time.monotonic())

    def _check_stop(self, now: float) -> None:
        late_s = now - self._tick_s
        if self._stop_s is not None and late_s > self._stop_s:
            self._leave(f"this process stood still for {late_s:.1f} s; another one may have taken over")

    def _run(self) -> None:
        last_resort = LastResort(self._patience_s, RESTART_ME)
        while not self._stopping.wait(TICK_S):
            now = time.monotonic()
            self._check_stop(now)
            if now - self._tick_s > TICK_S + FORGIVEN_S:
                self._health.forgive()
            self._tick_s = now
            last_resort.renew()
            self.look(now)
        last_resort.cancel()

    def look(self, now: float) -> None:
        """One look at everything but standstill, at monotonic time `now` in s."""
        loop, silent_s = self._health.silence(now)
        if silent_s > self._patience_s:
            self._leave(f"the {loop} has been stuck for {silent_s:.0f} s")
        current = self._progress()
        if current != self._last:
            self._last = current
            self._moved_s, self._suspected_s = now, None
        elif now - self._moved_s > self._patience_s and now - (self._suspected_s or 0.0) > SECOND_LOOK_S:
            reason = self._is_stuck()
            if reason is None:
                self._moved_s, self._suspected_s = now, None
            elif self._suspected_s is None:
                self._suspected_s = now
            else:
                self._leave(f"no progress for {now - self._moved_s:.0f} s: {reason}")
                self._moved_s, self._suspected_s = now, None
