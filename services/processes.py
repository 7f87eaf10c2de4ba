"""Start, recognise and stop operating system processes; knows nothing about what they run."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.errors import ServiceError

_TETHER = Path(__file__).with_name("tether.py")
# The signal at the parent's death is bound to the *thread* that started the child, so one thread that lives as
# long as we do starts them all.
_SPAWNER = ThreadPoolExecutor(max_workers=1, thread_name_prefix="spawner")
# Below the range from which systems take ports for outgoing connections: a client that keeps connecting to the
# port of a stopped service could otherwise be given that very port, connect to itself and block the restart.
_PORTS = range(15_000, 32_000)
_given_out: set[int] = set()
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
KILL_TIMEOUT_S = 5.0
#: Variables that hold secrets. A program that we start inherits none of them; it is given what it needs by name.
SECRETS = ("KAFKA_PASSWORD", "INFLUX_TOKEN", "MQTT_PASSWORD", "OPCUA_PASSWORD")


def set_at_signals(stop: threading.Event) -> None:
    """Let SIGTERM and SIGINT set `stop`. To be called in the main thread.

    Not in the handler itself: it may interrupt `stop.wait` where that holds the event's lock, and `set` would wait for
    the lock for ever. `SimpleQueue.put` is made for handlers.
    """
    told: queue.SimpleQueue[int] = queue.SimpleQueue()

    def relay() -> None:
        told.get()
        stop.set()

    threading.Thread(target=relay, name="signals", daemon=True).start()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _frame: told.put(number))


def free_port() -> int:
    """Return a TCP port on loopback that nothing listens on at this moment, never the same one twice."""
    for _ in range(200):
        port = random.choice(_PORTS)
        if port not in _given_out and port_is_free(port):
            _given_out.add(port)
            return port
    raise ServiceError(f"no free TCP port found between {_PORTS.start} and {_PORTS.stop}")


def port_is_free(port: int) -> bool:
    """Return whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def spawn(
    argv: Sequence[str],
    *,
    log: Path,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    death_signal: signal.Signals = signal.SIGTERM,
) -> subprocess.Popen[bytes]:
    """Start a program in a session of its own, with its output appended to `log`.

    `env` is added to our own environment, less its secrets. The program gets `death_signal` when this process dies.
    Raises ServiceError when the program does not exist.
    """
    if shutil.which(argv[0], path=(env or {}).get("PATH")) is None:
        raise ServiceError(f"cannot start {argv[0]}: no such program")
    tethered = [sys.executable, "-IS", str(_TETHER), str(int(death_signal)), str(os.getpid()), *argv]
    log.parent.mkdir(parents=True, exist_ok=True)
    full_env = {**{key: value for key, value in os.environ.items() if key not in SECRETS}, **(env or {})}

    def start() -> subprocess.Popen[bytes]:
        with log.open("ab") as out:
            return subprocess.Popen(
                tethered,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=cwd,
                env=full_env,
                start_new_session=True,
            )

    return _SPAWNER.submit(start).result()


def ask_to_stop(process: subprocess.Popen[bytes], stop_signal: signal.Signals = signal.SIGTERM) -> None:
    """Send a child the signal to end, when it still runs."""
    if process.poll() is None:
        process.send_signal(stop_signal)
        # A halted process (SIGSTOP) would never see the signal.
        process.send_signal(signal.SIGCONT)


def stop(process: subprocess.Popen[bytes], timeout_s: float, stop_signal: signal.Signals = signal.SIGTERM) -> int:
    """End a child: `stop_signal`, and SIGKILL when it still runs `timeout_s` seconds later. Returns its exit code."""
    ask_to_stop(process, stop_signal)
    try:
        return process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.wait()


@dataclass(frozen=True)
class ProcessId:
    """A process as it can be found again later: pids are reused, a pid with its time of start is not.

    `started` tells the start exactly and is only good for comparing: on Linux the boot and the clock ticks since,
    which stay the same when the wall clock is set.
    """

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> ProcessId | None:
        """Return the identity of a running process, None when there is none of that pid."""
        try:
            return cls(pid, _started(pid))
        except (OSError, psutil.Error):
            return None

    def find(self) -> psutil.Process | None:
        """Return the process when it still runs; None when it is gone, a zombie, or the pid is another's now."""
        with contextlib.suppress(OSError, psutil.Error):
            process = psutil.Process(self.pid)
            if process.status() != psutil.STATUS_ZOMBIE and _started(self.pid) == self.started:
                return process
        return None

    def stop(self, timeout_s: float) -> bool:
        """End it by SIGTERM, then SIGKILL after `timeout_s` seconds. Returns whether it ended by itself."""
        process = self.find()
        if process is None:
            return True
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
            process.resume()
        if self.wait_gone(timeout_s):
            return True
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
        self.wait_gone(KILL_TIMEOUT_S)
        return False

    def wait_gone(self, timeout_s: float) -> bool:
        """Wait until it is gone, at most `timeout_s` seconds. Returns whether it is."""
        deadline = time.monotonic() + timeout_s
        while self.find() is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True


def _started(pid: int) -> str:
    if not _BOOT_ID.exists():
        return f"{psutil.Process(pid).create_time():.3f}"
    # The name in parentheses may hold spaces; the 20th field after it is the start in clock ticks since boot.
    ticks = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{_BOOT_ID.read_text().strip()}:{ticks}"
