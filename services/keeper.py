"""The supervisor process: starts services, one-shot commands and processes, keeps them running, stops them in order.

Run as `python -m services.keeper RUN_DIR` (by `services.supervisor.up`), which finds its plan in the run folder and
writes its state there. If it is killed, the system ends its children: stages at once (SIGKILL, they are built to
survive it), services by their stop signal so that they save what they hold; what then still runs is ended by the next
`up` or `down`.
"""

from __future__ import annotations

import http.client
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from services import processes
from services.errors import ServiceError
from services.processes import ProcessId, free_port, spawn
from services.rundir import RunDir
from services.service import Service
from services.spec import SERVICES_STOP_ORDER, Phase, Plan, ProcessSpec, ProcessState, SupervisorState
from services.supervised import Supervised

TICK_S = 0.2
LOG_CHECK_S = 5.0
SERVICE_READY_TIMEOUT_S = 90.0
SERVICE_STOP_TIMEOUT_S = 20.0
INIT_TIMEOUT_S = 120.0
HEALTH_EVERY_S = 2.0
HEALTH_ANSWER_S = 3.0


class _StopRequestedError(Exception):
    """SIGTERM or Ctrl-C arrived."""


class Keeper:
    """The supervisor of one run folder."""

    def __init__(self, run_dir: RunDir, plan: Plan) -> None:
        self.run_dir = run_dir
        self.plan = plan
        self.env: dict[str, str] = {}
        self._children: list[Supervised] = []
        self._stop = threading.Event()
        own = ProcessId.of(os.getpid())
        self._state = SupervisorState(os.getpid(), own.started if own else "", time.time())
        self._next_log_check_s = 0.0
        self._troubles: queue.SimpleQueue[tuple[Supervised, int | None, str]] = queue.SimpleQueue()

    def run(self) -> int:
        """Run until SIGTERM or Ctrl-C. Returns 0, or 1 when services or one-shot commands failed."""
        with self.run_dir.lock():
            self.run_dir.end_survivors()
            processes.set_at_signals(self._stop)
            self._save()
            try:
                self._start_services()
                self._run_init()
                self._start_processes()
                self._tick_until(lambda: False, None)
            except _StopRequestedError:
                self._stop_all()
                self._set_phase("stopped")
                return 0
            except Exception as error:
                # Whatever it is, nothing may keep running that nobody looks after.
                self._stop_all()
                self._state.message = str(error)
                self._set_phase("failed")
                print(f"error: {error}", flush=True)
                if not isinstance(error, (ServiceError, OSError)):
                    raise
                return 1
        return 0

    def _start_services(self) -> None:
        services = self.run_dir.services(self.plan.external)
        for service in services:
            state = ProcessState(service.name, is_service=True)
            child = Supervised(
                state,
                launch=service.start,
                probe=service.answers,
                log=service.log,
                stop_order=SERVICES_STOP_ORDER,
                stop_timeout_s=SERVICE_STOP_TIMEOUT_S,
                stop_signal=service.stop_signal,
            )
            self._add_and_start(child)
        self._tick_until(self._all_ready, SERVICE_READY_TIMEOUT_S)
        self.env = _environment(services, self.plan)
        self.run_dir.write_env(self.env)

    def _run_init(self) -> None:
        for spec in self.plan.init:
            log = self.run_dir.log(spec.name)
            process = spawn(spec.argv, log=log, env=self._env_for(spec, None), death_signal=signal.SIGKILL)
            try:
                self._tick_until(partial(_has_ended, process), INIT_TIMEOUT_S)
            finally:
                processes.stop(process, spec.stop_timeout_s)
            if process.returncode != 0:
                raise ServiceError(f"{spec.name} failed with code {process.returncode}; see {log}")

    def _start_processes(self) -> None:
        for spec in self.plan.processes:
            port = free_port() if spec.has_metrics else None
            state = ProcessState(spec.name, is_service=False, metrics_port=port)
            log = self.run_dir.log(spec.name)
            env = self._env_for(spec, port)
            child = Supervised(
                state,
                launch=partial(spawn, spec.argv, log=log, env=env, death_signal=signal.SIGKILL),
                probe=partial(_metrics_answer, port),
                log=log,
                stop_order=spec.stop_order,
                stop_timeout_s=spec.stop_timeout_s,
            )
            self._add_and_start(child)
        threading.Thread(target=self._ask_for_health, name="health", daemon=True).start()
        # However long that takes: a stage that crashes at its start is started again, and `up` tells about it.
        self._tick_until(self._all_ready, None)
        self._set_phase("ready")
        print("ready", flush=True)

    def _add_and_start(self, child: Supervised) -> None:
        self._children.append(child)
        self._state.processes.append(child.state)
        child.start()
        self._save()

    def _env_for(self, spec: ProcessSpec, metrics_port: int | None) -> dict[str, str]:
        known = {**os.environ, **self.env}
        env = {key: value for key, value in self.env.items() if key not in processes.SECRETS}
        env |= {key: known[key] for key in spec.secrets if key in known}
        if "INFLUX_TOKENS_DIR" in env:
            env.pop("INFLUX_TOKEN", None)  # it only reads; who writes has a token of its own in that folder
        env |= {"PYTHONUNBUFFERED": "1", **spec.env}
        if self.plan.config_path is not None:
            env["TWIN_CONFIG"] = self.plan.config_path
        if metrics_port is not None:
            env["TWIN_METRICS_PORT"] = str(metrics_port)
        return env

    def _all_ready(self) -> bool:
        return all(child.state.ready for child in self._children)

    def _tick_until(self, condition: Callable[[], bool], timeout_s: float | None) -> None:
        """Keep the children running until the condition holds.

        Raises _StopRequestedError at SIGTERM, and ServiceError when the timeout in seconds is over.
        """
        deadline_s = None if timeout_s is None else time.monotonic() + timeout_s
        while not condition():
            if self._stop.is_set():
                raise _StopRequestedError
            if deadline_s is not None and time.monotonic() > deadline_s:
                late = [child.state.name for child in self._children if not child.state.ready]
                raise ServiceError(f"not ready after {timeout_s:g} s: {', '.join(late)}; logs in {self.run_dir.logs}")
            changed = [child.tick() for child in self._children]
            while not self._troubles.empty():
                child, pid, trouble = self._troubles.get()
                changed.append(child.note_trouble(trouble, pid))
            if any(changed):
                self._save()
            self._bound_logs()
            self._stop.wait(TICK_S)

    def _ask_for_health(self) -> None:
        """A thread of its own: a process that stands still takes its time to answer, and the others must not wait."""
        while not self._stop.wait(HEALTH_EVERY_S):
            for child in tuple(self._children):
                pid, port = child.state.pid, child.state.metrics_port
                if pid is not None and port is not None and child.state.state == "running":
                    self._troubles.put((child, pid, trouble_of(port)))

    def _bound_logs(self) -> None:
        if time.monotonic() < self._next_log_check_s:
            return
        self._next_log_check_s = time.monotonic() + LOG_CHECK_S
        for child in self._children:
            child.bound_log()

    def _stop_all(self) -> None:
        """Stop in ascending stop order; those of equal order at the same time."""
        self._set_phase("stopping")
        for order in sorted({child.stop_order for child in self._children}):
            group = [child for child in self._children if child.stop_order == order]
            started_s = time.monotonic()
            for child in group:
                child.ask_to_stop()
            for child in group:
                child.wait_stopped(started_s + child.stop_timeout_s)
            print(f"stopped {', '.join(child.state.name for child in group)}", flush=True)
            self._save()

    def _set_phase(self, phase: Phase) -> None:
        self._state.phase = phase
        self._save()

    def _save(self) -> None:
        self._state.write(self.run_dir.state_file)


def _environment(services: list[Service], plan: Plan) -> dict[str, str]:
    own = {key: value for service in services for key, value in service.environment().items()}
    return {**own, **plan.external}


def _has_ended(process: subprocess.Popen[bytes]) -> bool:
    return process.poll() is not None


def _metrics_answer(port: int | None) -> bool:
    return port is None or _get(port, "/metrics", 1.0)[0] == http.client.OK


def trouble_of(port: int) -> str:
    """Why a process makes no progress, in one line; empty where it does. Who knows no /ready has no trouble."""
    status, text = _get(port, "/ready", HEALTH_ANSWER_S)
    if status == 0:
        return "does not answer"
    return "; ".join(text.splitlines()) if status == http.client.SERVICE_UNAVAILABLE else ""


def _get(port: int, path: str, timeout_s: float) -> tuple[int, str]:
    """Status and body; status 0 where no answer came."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode("utf-8", "replace")
    except (OSError, http.client.HTTPException):
        return 0, ""
    finally:
        connection.close()


def main() -> int:
    """Run the supervisor of the folder named on the command line."""
    run_dir = RunDir(Path(sys.argv[1]))
    return Keeper(run_dir, Plan.read(run_dir.plan_file)).run()


if __name__ == "__main__":
    sys.exit(main())
