"""Start, stop and look at a supervised system: the functions behind `twin up`, `down`, `status` and `env`.

Talks to the supervisor (`services.keeper`) through its run folder and signals only.
"""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from services.errors import ServiceError
from services.keeper import Keeper, trouble_of
from services.processes import ProcessId
from services.rundir import RunDir, install_services, own_services
from services.spec import Plan, ProcessSpec, ProcessState, ProcessStatus, SupervisorState

READY_TIMEOUT_S = 180.0
DOWN_MARGIN_S = 60.0
CPU_SAMPLE_S = 0.3
POLL_S = 0.1


@dataclass(frozen=True)
class DownReport:
    """What `down` found and did; `processes` are the last states, `left_behind` what a killed supervisor had left."""

    was_running: bool
    processes: tuple[ProcessState, ...] = ()
    left_behind: tuple[str, ...] = ()


def up(
    config_path: Path | None,
    run_dir: Path,
    processes: Sequence[ProcessSpec],
    external: Mapping[str, str],
    foreground: bool = False,
    *,
    init: Sequence[ProcessSpec] = (),
    ready_timeout_s: float = READY_TIMEOUT_S,
    on_progress: Callable[[SupervisorState], None] | None = None,
) -> dict[str, str]:
    """Start the services that `external` does not name, run the `init` commands, then keep `processes` running.

    In the background it returns the addresses (as `env`) when everything is ready; in the foreground it returns them
    after SIGTERM or Ctrl-C. Every process gets the addresses, TWIN_METRICS_PORT and, with a configuration,
    TWIN_CONFIG in its environment. `on_progress` is called with each new state while waiting.

    Raises ServiceError when the system is up already, when a service cannot be installed or started, when an init
    command fails (all is stopped again), or when processes are not ready in time (what runs is left running).
    """
    folder = RunDir(run_dir)
    _refuse_if_up(folder)
    wanted = own_services(external)
    install_services(wanted)
    config = None if config_path is None else str(config_path.absolute())
    folder.create()
    plan = Plan(config, tuple(processes), tuple(init), dict(external))
    if foreground:
        if Keeper(folder, plan).run() != 0:
            raise ServiceError(_why_failed(folder))
        return folder.read_env()
    plan.write(folder.plan_file)
    with folder.log("supervisor").open("ab") as log:
        keeper = subprocess.Popen(
            [sys.executable, "-m", "services.keeper", str(folder.path)],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    _wait_ready(folder, keeper, ready_timeout_s, on_progress)
    return folder.read_env()


def down(run_dir: Path) -> DownReport:
    """Stop everything in order and wait for it; also ends what a killed supervisor left behind.

    Raises ServiceError when the supervisor does not end in time, after ending it and its children by force.
    """
    folder = RunDir(run_dir)
    state = folder.state()
    if state is None or state.identity.find() is None:
        return DownReport(was_running=False, left_behind=tuple(folder.end_survivors()))
    process = state.identity.find()
    if process is not None:
        process.terminate()
    if not state.identity.wait_gone(_stop_time_s(folder)):
        state.identity.stop(0.0)
        left = folder.end_survivors()
        raise ServiceError(f"the supervisor did not stop in time and was killed; also ended: {', '.join(left)}")
    last = folder.state() or state
    return DownReport(was_running=True, processes=tuple(last.processes))


def status(run_dir: Path) -> list[ProcessStatus]:
    """Return one line per process, the supervisor first, in the order they were started; [] if never up."""
    state = RunDir(run_dir).state()
    if state is None:
        return []
    supervisor = state.identity if state.identity.find() is not None else None
    own = ProcessState("supervisor", is_service=False, state="running" if supervisor else "stopped")
    if supervisor is not None:
        own.pid, own.started, own.since_s = supervisor.pid, supervisor.started, state.since_s
    states = [own, *state.processes]
    usage = _usage({one.name: one.identity for one in states if one.identity is not None})
    return [_status(one, usage.get(one.name)) for one in states]


def env(run_dir: Path) -> dict[str, str]:
    """Return the addresses of the system in `run_dir`. Raises ServiceError when it was never up."""
    return RunDir(run_dir).read_env()


def _refuse_if_up(folder: RunDir) -> None:
    state = folder.state()
    if state is None or state.identity.find() is None:
        return
    if state.phase in {"stopped", "failed"} and state.identity.wait_gone(5.0):
        return
    raise ServiceError(
        f"already up in {folder.path}: supervisor pid {state.pid}, {state.phase}; stop it with `twin down`"
    )


def _wait_ready(
    folder: RunDir,
    keeper: subprocess.Popen[bytes],
    timeout_s: float,
    on_progress: Callable[[SupervisorState], None] | None,
) -> None:
    deadline_s = time.monotonic() + timeout_s
    while True:
        code = keeper.poll()
        state = folder.state()
        if state is not None and state.pid == keeper.pid:
            if on_progress is not None:
                on_progress(state)
            if state.phase == "ready":
                return
            failed = [one for one in state.processes if one.state == "failed"]
            if failed:
                raise ServiceError(_why_not_startable(folder, failed))
        if code is not None:
            raise ServiceError(_why_failed(folder, keeper.pid))
        if time.monotonic() > deadline_s:
            raise ServiceError(_why_late(folder, timeout_s))
        time.sleep(POLL_S)


def _why_failed(folder: RunDir, pid: int | None = None) -> str:
    state = folder.state()
    if state is not None and state.message and pid in {None, state.pid}:
        return state.message
    return f"the supervisor ended while it started; see {folder.log('supervisor')}"


def _why_not_startable(folder: RunDir, failed: list[ProcessState]) -> str:
    lines = [f"  {one.name}: {one.trouble}; see {folder.log(one.name)}" for one in failed]
    return "\n".join(["not started again (the others are left running; stop with `twin down`):", *lines])


def _why_late(folder: RunDir, timeout_s: float) -> str:
    state = folder.state()
    late = [] if state is None else [one for one in state.processes if not one.ready]
    lines = [
        f"  {one.name}: {one.state}, {one.restarts} restarts, last exit code {one.last_exit_code}; "
        f"see {folder.log(one.name)}"
        for one in late
    ]
    return "\n".join([f"not ready after {timeout_s:g} s (left running; stop with `twin down`):", *lines])


def _stop_time_s(folder: RunDir) -> float:
    """Return how long an ordered stop may take at most, in seconds."""
    try:
        plan = Plan.read(folder.plan_file)
    except (OSError, ValueError, TypeError):
        return DOWN_MARGIN_S
    return DOWN_MARGIN_S + sum(spec.stop_timeout_s for spec in plan.processes)


def _usage(identities: Mapping[str, ProcessId]) -> dict[str, tuple[float, float]]:
    """Return (CPU percent of one core, resident MiB) of the processes that still run."""
    found = {name: identity.find() for name, identity in identities.items()}
    running = {name: process for name, process in found.items() if process is not None}
    usage: dict[str, tuple[float, float]] = {}
    before = {name: _cpu_s(process) for name, process in running.items()}
    started_s = time.monotonic()
    time.sleep(CPU_SAMPLE_S)
    for name, process in running.items():
        used_s, took_s = _cpu_s(process) - before[name], time.monotonic() - started_s
        try:
            usage[name] = (max(0.0, 100 * used_s / took_s), process.memory_info().rss / 2**20)
        except psutil.Error:
            continue
    return usage


def _cpu_s(process: psutil.Process) -> float:
    try:
        times = process.cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _status(state: ProcessState, usage: tuple[float, float] | None) -> ProcessStatus:
    runs = usage is not None
    cpu_percent, rss_mib = usage or (0.0, 0.0)
    # A process the state file calls running may be gone with its supervisor.
    shown = state.state if runs or state.state in {"waiting", "failed", "stopped"} else "gone"
    return ProcessStatus(
        name=state.name,
        is_service=state.is_service,
        state=shown,
        pid=state.pid if runs else None,
        uptime_s=max(0.0, time.time() - state.since_s) if runs else 0.0,
        restarts=state.restarts,
        last_exit_code=state.last_exit_code,
        trouble=trouble_of(state.metrics_port) if shown == "running" and state.metrics_port else state.trouble,
        cpu_percent=cpu_percent,
        rss_mib=rss_mib,
        samples=_samples(state.metrics_port) if runs else (),
    )


def _samples(port: int | None) -> tuple[Sample, ...]:
    if port is None:
        return ()
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://127.0.0.1:{port}/metrics", timeout=2.0) as answer:
            text = answer.read().decode()
        return tuple(sample for family in text_string_to_metric_families(text) for sample in family.samples)
    except (OSError, ValueError):
        return ()
