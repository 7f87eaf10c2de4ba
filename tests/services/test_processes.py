"""Processes are found again by pid and start time, and end when they should."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from services.errors import ServiceError
from services.processes import ProcessId, free_port, port_is_free, spawn, stop

SLEEP = [sys.executable, "-c", "import time; time.sleep(60)"]
DEAF = [
    sys.executable,
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)",
]
# Starts a child through `spawn`, tells its pid and waits.
PARENT = """
import sys, time
from pathlib import Path
from services.processes import spawn
print(spawn([sys.executable, "-c", "import time; time.sleep(60)"], log=Path(sys.argv[1])).pid, flush=True)
time.sleep(60)
"""


def wait_for_text(file: Path, text: str) -> None:
    """Wait until a log holds a text, at most 10 s."""
    deadline = time.monotonic() + 10
    while text not in (file.read_text() if file.exists() else ""):
        assert time.monotonic() < deadline, f"{text!r} never appeared in {file}"
        time.sleep(0.02)


def test_free_ports_are_distinct_and_below_the_range_of_outgoing_connections() -> None:
    """No port is given out twice, and none can become a client's own port while its service is away."""
    ports = [free_port() for _ in range(50)]
    assert len(set(ports)) == 50
    assert max(ports) < 32_768
    assert all(port_is_free(port) for port in ports)


def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    """Kill -9 of the process that started it ends a spawned program."""
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path / "child.log")], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = ProcessId.of(int(parent.stdout.readline()))
    assert child is not None
    assert child.find() is not None
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert child.wait_gone(5.0)


def test_a_spawned_program_keeps_its_pid_and_its_output_goes_to_the_log(tmp_path: Path) -> None:
    """The pid of the handle is the pid of the program itself, and its log is appended to."""
    log = tmp_path / "logs" / "one.log"
    for _ in range(2):
        process = spawn([sys.executable, "-c", "import os; print('I am', os.getpid())"], log=log)
        assert process.wait(10) == 0
        assert f"I am {process.pid}" in log.read_text().splitlines()
    assert len(log.read_text().splitlines()) == 2


def test_a_program_that_does_not_exist_is_named(tmp_path: Path) -> None:
    """Starting a missing program fails with its name."""
    with pytest.raises(ServiceError, match="no-such-program"):
        spawn(["no-such-program"], log=tmp_path / "log")


def test_stop_kills_what_ignores_sigterm(tmp_path: Path) -> None:
    """A process that ignores SIGTERM is killed when its time is over."""
    process = spawn(DEAF, log=tmp_path / "log")
    wait_for_text(tmp_path / "log", "deaf")
    assert stop(process, 0.3) == -signal.SIGKILL


def test_stop_ends_a_halted_process(tmp_path: Path) -> None:
    """A process halted by SIGSTOP is stopped by SIGTERM, without waiting for the kill."""
    process = spawn(SLEEP, log=tmp_path / "log")
    psutil.Process(process.pid).suspend()
    assert stop(process, 10.0) == -signal.SIGTERM


def test_a_reused_pid_is_another_process(tmp_path: Path) -> None:
    """A pid whose process started at another time is not found, and not stopped."""
    process = spawn(SLEEP, log=tmp_path / "log")
    identity = ProcessId.of(process.pid)
    assert identity is not None
    earlier = ProcessId(process.pid, identity.started[:-1] + str((int(identity.started[-1]) + 1) % 10))
    assert earlier.find() is None
    assert earlier.stop(1.0)
    assert process.poll() is None
    assert identity.stop(5.0)
    assert process.wait(5) == -signal.SIGTERM


def test_a_signal_is_heard_wherever_it_strikes() -> None:
    """SIGTERM while the event is locked by the thread that it interrupts sets the event all the same."""
    program = (
        "import os, signal, threading, time\n"
        "from services.processes import set_at_signals\n"
        "stop = threading.Event()\n"
        "set_at_signals(stop)\n"
        "with stop._cond:\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    time.sleep(0.1)\n"
        "assert stop.wait(10)\n"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == 0
