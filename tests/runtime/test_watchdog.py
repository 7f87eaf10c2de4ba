"""When a process leaves by itself, and when it must not."""

import os
import signal
import subprocess
import sys
import time

from runtime.exit_codes import RESTART_ME
from runtime.health import MAIN, Health
from runtime.watchdog import Watchdog


class _Case:
    """A watchdog whose leaving is recorded, looked at by hand."""

    def __init__(self, stuck: str | None = "5 records wait") -> None:
        self.left: list[str] = []
        self.work = 0
        self.asked = 0
        self.stuck = stuck
        self.health = Health()
        self.dog = Watchdog(
            self.health,
            stop_s=4,
            patience_s=10,
            progress=lambda: self.work,
            is_stuck=self.is_stuck,
            leave=self.left.append,
        )
        self.now = time.monotonic()
        self.health.beat()

    def is_stuck(self) -> str | None:
        self.asked += 1
        return self.stuck

    def pass_s(self, seconds: float, *, loop_lives: bool = True) -> None:
        """Let time pass as the dog sees it."""
        self.now += seconds
        if loop_lives:
            self.health._beats[MAIN] = self.now
        self.dog.look(self.now)


def test_no_progress_with_lag_leaves() -> None:
    """Offsets that do not move while records wait end the process once patience is over, not before."""
    case = _Case()
    case.pass_s(0)
    case.pass_s(9)
    assert case.left == []
    case.pass_s(2)
    assert case.left == []
    case.pass_s(3)
    assert case.left == ["no progress for 14 s: 5 records wait"]


def test_work_that_comes_after_a_long_time_of_nothing_is_no_standstill() -> None:
    """A record that came this moment, after nothing for longer than patience, is given the time to be taken."""
    case = _Case()
    case.pass_s(0)
    case.pass_s(11)
    case.work += 1
    case.pass_s(1)
    case.pass_s(9)
    assert case.left == [] and case.asked == 1


def test_nothing_to_do_is_no_reason() -> None:
    """Without lag, or while Kafka itself does not answer, nobody is stuck, however long it takes."""
    case = _Case(stuck=None)
    for _ in range(10):
        case.pass_s(9)
    assert case.left == [] and case.asked > 0


def test_progress_and_heartbeats_renew_patience() -> None:
    """Moving offsets, or a function that says it waits on purpose, keep the process alive."""
    case = _Case()
    for _ in range(5):
        case.work += 1
        case.pass_s(9)
    for _ in range(5):
        case.dog._moved_s = case.now  # what heartbeat() does at the present time
        case.pass_s(9)
    assert case.left == []


def test_a_stuck_event_loop_leaves() -> None:
    """An event loop that does not come round ends the process."""
    case = _Case(stuck=None)
    case.pass_s(11, loop_lives=False)
    assert case.left == ["the main loop has been stuck for 11 s"]


def test_a_process_that_was_stopped_leaves_when_it_wakes_up() -> None:
    """After SIGSTOP for longer than allowed, SIGCONT: the process ends with RESTART_ME before it writes anything."""
    script = (
        "import sys, time; from runtime.health import HEALTH; from runtime.watchdog import Watchdog\n"
        "dog = Watchdog(HEALTH, stop_s=0.8, patience_s=99, progress=lambda: 0, is_stuck=lambda: None)\n"
        "dog.start(); print('up', flush=True)\n"
        "while True:\n"
        "    time.sleep(0.01); HEALTH.beat(); dog.refuse_zombie(); sys.stdout.write('w'); sys.stdout.flush()\n"
    )
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"up\n"
    time.sleep(0.5)
    assert process.poll() is None
    process.send_signal(signal.SIGSTOP)
    time.sleep(1.2)
    os.set_blocking(process.stdout.fileno(), False)
    process.stdout.read()
    process.send_signal(signal.SIGCONT)
    assert process.wait(5) == RESTART_ME
    # At most the write that was under way when it was stopped.
    assert len(process.stdout.read() or b"") <= 1
