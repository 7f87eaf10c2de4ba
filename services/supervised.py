"""One supervised process: started, watched, started again after a pause that grows, stopped.

Knows how to start it only as a function; whether it is a service or a stage makes no difference here.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from services import processes
from services.errors import ServiceError
from services.processes import ProcessId
from services.spec import ProcessState

EXIT_RESTART_AT_ONCE = 75
EXIT_BAD_CONFIGURATION = 78  # the next one would end the same way
AT_ONCE_S = 0.2
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# For a process that was ready: starting it helps, so what ends it again and again shall not keep it away for long.
LONGEST_PAUSE_OF_READY_S = 4.0
# Short enough that a process killed again and again while it works is back within seconds every time, long enough
# that one which crashes in its start-up is not tried over and over.
HEALTHY_AFTER_S = 10.0
MAX_LOG_BYTES = 20 * 1024 * 1024


@dataclass
class Backoff:
    """How long to wait before a process is started again."""

    _pause_s: float = FIRST_PAUSE_S
    _at_once_before: bool = False

    def next_pause_s(self, exit_code: int, lived_s: float, was_ready: bool = False) -> float:
        """Return the pause in seconds after a process ended with `exit_code` having lived `lived_s` seconds."""
        if lived_s >= HEALTHY_AFTER_S:
            self._pause_s = FIRST_PAUSE_S
        # A stage that leaves with 75 wants to come back clean at once. If it does so again within seconds, coming
        # back does not help, and it is paused like any other failure.
        hot_loop = self._at_once_before and lived_s < HEALTHY_AFTER_S
        self._at_once_before = exit_code == EXIT_RESTART_AT_ONCE
        if self._at_once_before and not hot_loop:
            return AT_ONCE_S
        pause_s = min(self._pause_s, LONGEST_PAUSE_OF_READY_S if was_ready else LONGEST_PAUSE_S)
        self._pause_s = 2 * pause_s
        return pause_s


class Supervised:
    """A process with its state; `tick` is called a few times per second."""

    def __init__(
        self,
        state: ProcessState,
        *,
        launch: Callable[[], subprocess.Popen[bytes]],
        probe: Callable[[], bool],
        log: Path,
        stop_order: int,
        stop_timeout_s: float,
        stop_signal: signal.Signals = signal.SIGTERM,
    ) -> None:
        self.state = state
        self.stop_order = stop_order
        self.stop_timeout_s = stop_timeout_s
        self._stop_signal = stop_signal
        self._launch = launch
        self._probe = probe
        self._log = log
        self._backoff = Backoff()
        self._process: subprocess.Popen[bytes] | None = None
        self._started_s = 0.0
        self._start_at_s = 0.0

    def start(self) -> None:
        """Start the process. Raises ServiceError when that is not possible."""
        self._started_s = time.monotonic()
        self._process = self._launch()
        identity = ProcessId.of(self._process.pid)
        self.state.pid = self._process.pid
        self.state.started = identity.started if identity else ""
        self.state.since_s = time.time()
        self.state.state, self.state.ready, self.state.trouble = "starting", False, ""

    def note_trouble(self, trouble: str, pid: int | None) -> bool:
        """What the process of this pid says is in the way of progress; empty: nothing. Returns whether that is news."""
        if self.state.state != "running" or pid != self.state.pid or trouble == self.state.trouble:
            return False
        before, self.state.trouble = self.state.trouble, trouble
        print(
            f"{self.state.name}: " + (f"not ready: {trouble}" if trouble else f"ready again, after: {before}"),
            flush=True,
        )
        return True

    def tick(self) -> bool:
        """Notice an exit, start again when the pause is over, notice readiness. Returns whether anything changed."""
        if self.state.state == "waiting":
            return self._start_again() if time.monotonic() >= self._start_at_s else False
        if self._process is None:
            return False
        code = self._process.poll()
        if code is not None:
            self._ended(code)
            return True
        if not self.state.ready and self._probe():
            self.state.ready, self.state.state = True, "running"
            return True
        return False

    def _ended(self, code: int) -> None:
        was_ready = self.state.ready
        self.state.pid, self.state.last_exit_code = None, code
        self.state.ready = False
        if code == EXIT_BAD_CONFIGURATION:
            self._process = None
            self.state.state, self.state.trouble = (
                "failed",
                f"configuration (exit code {code}); the reason is in its log",
            )
            print(f"{self.state.name} failed: {self.state.trouble}; not started again", flush=True)
            return
        pause_s = self._backoff.next_pause_s(code, time.monotonic() - self._started_s, was_ready)
        self._start_at_s = time.monotonic() + pause_s
        self.state.state = "waiting"
        print(f"{self.state.name} ended with code {code}; starts again in {pause_s:g} s", flush=True)

    def _start_again(self) -> bool:
        self.state.restarts += 1
        try:
            self.start()
        except (ServiceError, OSError) as error:
            print(f"{self.state.name} cannot be started: {error}", flush=True)
            self._process = None
            self._ended(self.state.last_exit_code or 1)
        return True

    def ask_to_stop(self) -> None:
        """Send the signal to end; from now on an exit is not followed by a start."""
        if self._process is not None:
            processes.ask_to_stop(self._process, self._stop_signal)

    def wait_stopped(self, deadline_s: float) -> None:
        """Wait for the end until `deadline_s` (monotonic seconds), then SIGKILL."""
        if self._process is not None:
            try:
                code = self._process.wait(max(0.0, deadline_s - time.monotonic()))
            except subprocess.TimeoutExpired:
                print(f"{self.state.name} did not stop in {self.stop_timeout_s:g} s; killed", flush=True)
                self._process.kill()
                code = self._process.wait()
            self.state.last_exit_code = code
        self.state.pid, self.state.state, self.state.ready = None, "stopped", False

    def bound_log(self) -> None:
        """Keep the log bounded: when it is too large, keep a copy as .1 and empty it.

        The process holds the file open in append mode, so it goes on at the new start.
        """
        try:
            if self._log.stat().st_size <= MAX_LOG_BYTES:
                return
        except OSError:
            return
        self._log.with_name(self._log.name + ".1").write_bytes(self._log.read_bytes())
        with self._log.open("r+b") as file:
            file.truncate(0)
