"""What Kafka, InfluxDB and mosquitto have in common as processes: start, wait until ready, stop, start again."""

from __future__ import annotations

import signal
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path

from services import processes
from services.errors import ServiceError
from services.processes import free_port, port_is_free

STOP_TIMEOUT_S = 20.0
POLL_S = 0.05
LOG_TAIL_LINES = 20


class Service(ABC):
    """One service process on loopback with a data folder; it may be killed and started again on the same data.

    `directory` holds its data and configuration, `log` is the file its output goes to. Ports are chosen when the
    service object is made and stay the same for its life, so that clients find it again after a restart.
    """

    name: str
    host = "127.0.0.1"
    stop_signal = signal.SIGTERM

    def __init__(self, directory: Path, log: Path, port: int | None = None) -> None:
        self.directory = directory.absolute()
        self.log = log.absolute()
        self.port = port or free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @abstractmethod
    def prepare(self) -> list[str]:
        """Write what the service needs before it starts and return its command line."""

    @abstractmethod
    def answers(self) -> bool:
        """Ask the service once whether it can be used now; never raises for a service that is not up yet."""

    @abstractmethod
    def environment(self) -> dict[str, str]:
        """Return the addresses other programs need, under the names of `twin env`."""

    def environment_for_process(self) -> dict[str, str]:
        """Return variables for the service's own process."""
        return {}

    @property
    def pid(self) -> int:
        """The pid of the running process; raises ServiceError when it was never started."""
        if self._process is None:
            raise ServiceError(f"{self.name} is not started")
        return self._process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code of a process that ended by itself, None while it runs or before it was started."""
        return None if self._process is None else self._process.poll()

    def start(self) -> subprocess.Popen[bytes]:
        """Start the process and return it, ready or not. Raises ServiceError when its port is taken."""
        if self._process is not None and self._process.poll() is None:
            raise ServiceError(f"{self.name} runs already with pid {self._process.pid}")
        if not port_is_free(self.port):
            raise ServiceError(f"{self.name}: port {self.port} is used by another program")
        self.directory.mkdir(parents=True, exist_ok=True)
        self._process = processes.spawn(
            self.prepare(), log=self.log, env=self.environment_for_process(), death_signal=self.stop_signal
        )
        return self._process

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until the service answers. Raises ServiceError with the end of its log when it does not."""
        deadline = time.monotonic() + timeout_s
        while not self.answers():
            if self.exit_code is not None:
                raise ServiceError(f"{self.name} ended with code {self.exit_code}; {self._log_tail()}")
            if time.monotonic() > deadline:
                raise ServiceError(f"{self.name} does not answer after {timeout_s:.0f} s; {self._log_tail()}")
            time.sleep(POLL_S)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End the process in its regular way, after `timeout_s` seconds by SIGKILL; nothing happens without one."""
        if self._process is not None:
            processes.stop(self._process, timeout_s, self.stop_signal)

    def kill(self) -> None:
        """End the process at once (SIGKILL), as a crash would; `start` brings it back on the same data."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _log_tail(self) -> str:
        try:
            lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        except OSError:
            lines = []
        return f"the end of {self.log}:\n" + "\n".join(lines)
