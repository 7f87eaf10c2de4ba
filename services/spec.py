"""What the supervisor is told (specifications, a plan) and what it tells (states); plain data, JSON both ways."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from prometheus_client.samples import Sample

from services.processes import ProcessId

Phase = Literal["starting", "ready", "stopping", "stopped", "failed"]
#: "failed": it ended for a reason that starting it again would not change, so it is not.
State = Literal["starting", "running", "waiting", "failed", "stopped"]
SERVICES_STOP_ORDER = 1_000_000


@dataclass(frozen=True)
class ProcessSpec:
    """A process to keep running.

    Processes are started in the order of the plan and stopped in ascending `stop_order` (those of equal order
    together); the services stop after all of them. With `has_metrics` the process is given a free loopback port in
    TWIN_METRICS_PORT and is ready when GET /metrics answers there; without, it is ready when it has started.
    """

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    stop_order: int = 0
    stop_timeout_s: float = 10.0
    has_metrics: bool = True
    #: Names of variables with secrets that it may have, of processes.SECRETS; no process has one that it does not need.
    secrets: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """All that a supervisor needs; `external` holds the addresses of services that are not ours to start."""

    config_path: str | None
    processes: tuple[ProcessSpec, ...]
    init: tuple[ProcessSpec, ...]
    external: Mapping[str, str]

    def write(self, path: Path) -> None:
        """Write it for the supervisor; readable by the owner only, there may be tokens in it."""
        write_private(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> Plan:
        """Read what `write` wrote. Raises OSError or ValueError where there is none."""
        raw: dict[str, Any] = json.loads(path.read_text())
        raw["processes"] = tuple(_spec(one) for one in raw["processes"])
        raw["init"] = tuple(_spec(one) for one in raw["init"])
        return cls(**raw)


def _spec(raw: dict[str, Any]) -> ProcessSpec:
    return ProcessSpec(**{**raw, "argv": tuple(raw["argv"]), "secrets": tuple(raw["secrets"])})


@dataclass
class ProcessState:
    """What the supervisor knows of one process; times in seconds since 1970."""

    name: str
    is_service: bool
    state: State = "starting"
    pid: int | None = None
    started: str = ""
    since_s: float = 0.0
    restarts: int = 0
    last_exit_code: int | None = None
    metrics_port: int | None = None
    ready: bool = False
    trouble: str = ""  # why it makes no progress though it runs, or why it is not started again

    @property
    def identity(self) -> ProcessId | None:
        """The process it names, None when it is not running."""
        return None if self.pid is None else ProcessId(self.pid, self.started)


@dataclass
class SupervisorState:
    """The state file: who the supervisor is, how far it is, and its processes in the order they were started."""

    pid: int
    started: str
    since_s: float
    phase: Phase = "starting"
    message: str = ""
    processes: list[ProcessState] = field(default_factory=list)

    @property
    def identity(self) -> ProcessId:
        """The supervisor's process."""
        return ProcessId(self.pid, self.started)

    def write(self, path: Path) -> None:
        """Write it in one step, so that a reader never sees half of it."""
        write_private(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def read(cls, path: Path) -> SupervisorState | None:
        """Read a state file; None where there is none, or none that this version can read."""
        try:
            raw: dict[str, Any] = json.loads(path.read_text())
            raw["processes"] = [ProcessState(**one) for one in raw["processes"]]
            return cls(**raw)
        except (OSError, ValueError, TypeError, KeyError):
            return None


@dataclass(frozen=True)
class ProcessStatus:
    """One line of `twin status`; `samples` are the raw Prometheus samples of its metrics port."""

    name: str
    is_service: bool
    state: str
    pid: int | None
    uptime_s: float
    restarts: int
    last_exit_code: int | None
    trouble: str
    cpu_percent: float
    rss_mib: float
    samples: tuple[Sample, ...] = ()


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner can read, in one step."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    temporary.replace(path)
