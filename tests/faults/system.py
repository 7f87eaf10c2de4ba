"""The whole system under test: real services, a plant that sends, connectors and agents under the supervisor.

Everything runs as a user would run it. Faults come from outside: signals to processes, services that go away.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import tomlkit

from cli.lag import lag_of
from cli.processes import STAGES, processes, topics_command, twin_command
from runtime.config import Plant
from runtime.generations import at_work
from runtime.load import load as load_configuration
from schemas.codec import DecodeError, decode
from schemas.topics import Topic
from services import supervisor
from services.processes import free_port, spawn
from services.rundir import RunDir
from services.spec import ProcessSpec, ProcessState
from services.stack import Stack
from tests.agents.fault_proxy import FaultProxy
from tests.agents.kill_audit import records
from tests.faults.proxy import TcpProxy
from tests.faults.pulse import Pulse
from tests.faults.resources import Resources
from tests.faults.rig import Rig

ROOT = Path(__file__).parents[2]
MQTT, OPCUA = "mqtt-1", "opcua-1"
CONNECTORS = (MQTT, OPCUA)
#: What "lag back under 1 s" means: the newest frame of every asset and connector has come through to the twin.
FLOWS_S = 1.0
START_S = 180.0
DRAIN_S = 240.0
CHECK_S = 1800.0
Table = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the plant sends: `assets` × `tags` at `rate_hz`, half of the tags by OPC UA."""

    assets: int = 8
    tags: int = 8
    rate_hz: float = 5.0
    opcua_share: float = 0.5
    options: Sequence[str] = ()


DEFAULT_LOAD = Load()
#: No process of ours may ever have more: an agent needs 230 MiB, and 270 with what waits for it after a fault.
MEMORY_MIB = 400
#: ASSETSxTAGSxHZ: what rows send in their full form, unless they say otherwise. `bench.capacity` tells half of what
#: this machine sustains.
LOAD_VARIABLE = "FAULTS_LOAD"


def usual_load(short: bool) -> Load:
    """What a row sends unless it says otherwise. Raises ValueError where the environment's is none."""
    text = os.environ.get(LOAD_VARIABLE)
    if short or not text:
        return DEFAULT_LOAD
    found = re.fullmatch(r"(\d+)x(\d+)x(\d+(?:\.\d+)?)", text)
    if found is None:
        raise ValueError(f"{LOAD_VARIABLE}={text!r}: allowed is ASSETSxTAGSxHZ, as 20x50x2.5")
    return Load(assets=int(found[1]), tags=int(found[2]), rate_hz=float(found[3]))


@dataclass(frozen=True, slots=True)
class Worker:
    """One more worker of a stage, beside the supervised one and not under the supervisor."""

    name: str
    process: "subprocess.Popen[bytes]"
    metrics_port: int

    @property
    def assigned(self) -> bool:
        """Whether it has joined its group."""
        return self.metric("twin_assigned_partitions") not in (None, 0.0)

    def metric(self, name: str) -> float | None:
        """A metric of it now; None where it does not answer."""
        return metric_at(self.metrics_port, name)

    def stop(self) -> float:
        """End it in its regular way; the seconds from the signal to its end."""
        began = time.monotonic()
        self.process.terminate()
        code = self.process.wait(60)
        took_s = time.monotonic() - began
        assert code == 0, f"{self.name} ended with {code} after SIGTERM"
        return took_s


@dataclass(slots=True)
class System:
    """A running system. `plant` is its configuration, `env` the addresses; a proxy is there where the row wants one."""

    rig: Rig
    stack: Stack
    plant: Plant
    config: Path
    run_dir: Path
    env: Mapping[str, str]
    influxdb_proxy: FaultProxy | None = None
    kafka_proxy: TcpProxy | None = None
    fail_points: bool = False
    forged: set[str] = field(default_factory=set)  # assets whose records a row makes up; the checker ignores them
    journals: list[Path] = field(default_factory=list)
    _load: "subprocess.Popen[bytes] | None" = None
    _pulse: Pulse | None = None
    _resources: Resources | None = None

    # -- processes ---------------------------------------------------------------------------------------------------

    def state(self, name: str) -> ProcessState:
        """What the supervisor knows of a process."""
        found = RunDir(self.run_dir).state()
        assert found is not None, f"no supervisor in {self.run_dir}"
        return next(one for one in found.processes if one.name == name)

    def pid(self, name: str, within_s: float = 60.0) -> int:
        """The pid of a process, waiting for one that is being started again."""
        self.rig.wait_for(lambda: self.state(name).pid is not None, f"{name} has a pid", within_s)
        pid = self.state(name).pid
        return self.pid(name, within_s) if pid is None else pid

    def pids(self) -> dict[str, int]:
        """Pids of what runs, by name."""
        found = RunDir(self.run_dir).state()
        return {} if found is None else {one.name: one.pid for one in found.processes if one.pid is not None}

    def kill(self, *names: str) -> None:
        """Kill -9 processes at once, and see them gone."""
        pids = {name: self.pid(name) for name in names}
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        for name, pid in pids.items():
            self.rig.wait_for(lambda pid=pid: gone(pid), f"{name} is dead after kill -9", 10)  # type: ignore[misc]
            self.rig.wait_for(lambda name=name, pid=pid: self.state(name).pid != pid, f"{name} is missed", 30)  # type: ignore[misc]
        self.rig.struck(len(names))

    def send_signal(self, name: str, number: signal.Signals) -> int:
        """Send a signal; the pid it went to."""
        pid = self.pid(name)
        os.kill(pid, number)
        return pid

    @contextmanager
    def stopped(self, *names: str) -> Iterator[None]:
        """SIGSTOP processes; SIGCONT at the end of the block, if they still live."""
        pids = [self.send_signal(name, signal.SIGSTOP) for name in names]
        for pid in pids:
            self.rig.wait_for(lambda pid=pid: psutil.Process(pid).status() == psutil.STATUS_STOPPED, "stands still", 5)  # type: ignore[misc]
        self.rig.struck(len(pids))
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def service_stopped(self, service: str) -> Iterator[None]:
        """SIGSTOP a service; SIGCONT at the end of the block."""
        pid = getattr(self.stack, service).pid
        os.kill(pid, signal.SIGSTOP)
        try:
            self.rig.wait_for(lambda: psutil.Process(pid).status() == psutil.STATUS_STOPPED, f"{service} stands", 5)
            self.rig.struck()
            yield
        finally:
            os.kill(pid, signal.SIGCONT)

    def start_worker(self, stage: str, number: int) -> Worker:
        """Start one more worker of a stage; it joins its group when it is ready."""
        name, port = f"{stage}-{number}", free_port()
        env = self._environment() | {"TWIN_METRICS_PORT": str(port), "PYTHONUNBUFFERED": "1"}
        log = RunDir(self.run_dir).log(name)
        process = spawn(twin_command("agent", stage), log=log, env=env, cwd=ROOT, death_signal=signal.SIGKILL)
        return Worker(name, process, port)

    @contextmanager
    def worker(self, stage: str, number: int = 2, within_s: float = 60.0) -> Iterator[Worker]:
        """One more worker of a stage for the block, from when it has joined its group."""
        worker = self.start_worker(stage, number)
        try:
            self.rig.wait_for(lambda: worker.assigned, f"{worker.name} has joined", within_s)
            yield worker
            worker.stop()
        finally:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()

    def fail_at(self, **points: str) -> float:
        """Let stages die at fail points, `stage=point`, and see that they did. Needs `fail_points=True`.

        Returns when (s since 1970) the last of them was seen dead.
        """
        pids = {stage: self.pid(stage) for stage in points}
        files = {stage: fail_file(self.run_dir, stage) for stage in points}
        for stage, point in points.items():
            partial = files[stage].with_suffix(".new")
            partial.write_text(point, "utf-8")
            partial.replace(files[stage])
        for stage, pid in pids.items():
            self.rig.wait_for(lambda pid=pid: gone(pid), f"{stage} dies at {points[stage]!r}", 30)  # type: ignore[misc]
            self.rig.require(not files[stage].exists(), f"{stage} died at the fail point {points[stage]!r}")
        died_s = time.time()
        for stage, pid in pids.items():
            self.rig.wait_for(lambda stage=stage, pid=pid: self.state(stage).pid != pid, f"{stage} is missed", 30)  # type: ignore[misc]
        self.rig.struck(len(points))
        return died_s

    @property
    def connectors(self) -> list[str]:
        """Names of all connectors of the configuration."""
        return [one.id for one in (*self.plant.mqtt, *self.plant.opcua)]

    # -- what they say -----------------------------------------------------------------------------------------------

    def log(self, name: str) -> str:
        """All that a process has logged."""
        path = RunDir(self.run_dir).log(name)
        return path.read_text("utf-8", "replace") if path.exists() else ""

    def log_matches(self, name: str, pattern: str) -> int:
        """Lines of a log that match."""
        return sum(re.search(pattern, line) is not None for line in self.log(name).splitlines())

    def trouble(self, name: str, pattern: str) -> bool:
        """Whether a process says that it is not ready, for a reason that matches; the supervisor asks it."""
        return re.search(pattern, self.state(name).trouble) is not None

    def metric(self, name: str, metric: str, **labels: str) -> float | None:
        """A metric of a process now; None where it does not answer."""
        return metric_at(self.state(name).metrics_port, metric, **labels)

    def records(self, topic: Topic) -> list[Any]:
        """All records of a topic that decode, per partition in their order."""
        found = []
        for _, _, value in records(self.plant.kafka, topic.full_name(self.plant.kafka.prefix)):
            with suppress(DecodeError):
                found.append(decode(value or b""))
        return found

    # -- flow --------------------------------------------------------------------------------------------------------

    @property
    def pulse(self) -> Pulse:
        """How far the twin is behind."""
        assert self._pulse is not None
        return self._pulse

    @property
    def resources(self) -> Resources:
        """Memory and handles of the processes."""
        assert self._resources is not None
        return self._resources

    def newest_s(self) -> float:
        """Arrival time (s since 1970) of what twin and sink have both done, of whatever is furthest behind."""
        return min(self.pulse.newest_s(), self.metric("sink", "twin_last_reading_time_seconds") or 0.0)

    def lag_s(self) -> float:
        """How far twin and sink are behind the field."""
        return time.time() - self.newest_s()

    def flows(self, since_s: float = 0.0) -> bool:
        """Whether everything comes through to twin and sink, by what arrived after `since_s` (s since 1970)."""
        newest_s = self.newest_s()
        return newest_s > since_s and time.time() - newest_s < self.rig.limit_s(FLOWS_S)

    def wait_flowing(self, within_s: float, since_s: float | None = None, record: bool = True) -> float:
        """Wait until what arrives after `since_s` (s since 1970; None: now) comes through with a lag below 1 s.

        Returns the seconds from `since_s` and notes them as the time to recover.
        """
        began_s = time.time() if since_s is None else since_s
        self.rig.wait_for(
            lambda: self.flows(began_s), f"everything flows again (lag {self.rig.limit_s(FLOWS_S):g} s)", within_s
        )
        took_s = time.time() - began_s
        if record:
            self.rig.recovered(took_s)
        return took_s

    def start_load(self, load: Load | None = None, seed: int | None = None) -> None:
        """Let the plant send, until `stop_load`; returns when everything flows."""
        load = load or Load()
        journal = self.run_dir / f"journal-{len(self.journals)}.jsonl"
        self.journals.append(journal)
        self.rig.note("readings_hz", load.assets * load.tags * load.rate_hz)
        command = twin_command(
            "plant", "load", "--run-dir", str(self.run_dir), "--config", str(self.config),
            "--assets", str(load.assets), "--tags", str(load.tags), "--rate-hz", str(load.rate_hz),
            "--opcua-share", str(load.opcua_share), "--journal", str(journal),
            "--seed", str(self.rig.outcome.seed if seed is None else seed), *load.options,
        )  # fmt: skip
        with (self.run_dir / "plant.log").open("ab") as log:
            self._load = subprocess.Popen(command, cwd=ROOT, env=self._environment(), stdout=log, stderr=log)
        self.rig.wait_for(self._sends, "the plant sends", START_S)
        sources = load.assets * ((load.opcua_share < 1) + (load.opcua_share > 0))
        self.rig.wait_for(lambda: len(self.pulse.sources) >= sources, "the twin knows every asset", START_S)
        self.wait_flowing(START_S, record=False)

    @property
    def sends(self) -> bool:
        """Whether the plant sends."""
        return self._load is not None

    def stop_load(self) -> dict[str, Any]:
        """Let the plant finish; what it says it sent."""
        assert self._load is not None
        self._load.terminate()
        code = self._load.wait(DRAIN_S)
        text = (self.run_dir / "plant.log").read_text("utf-8", "replace")
        assert code == 0, f"the plant ended with {code}: {text[-2000:]}"
        self._load = None
        summary: dict[str, Any] = json.loads(text[text.rindex("\n{") if "\n{" in text else 0 :])
        return summary

    def drain(self, within_s: float = DRAIN_S) -> None:
        """Wait until the connectors hold nothing back and every stage has acknowledged all that was sent."""
        for name in self.connectors:
            self.rig.wait_for(
                lambda name=name: not self.metric(name, "twin_spool_frames"), f"{name}'s spool is empty", within_s
            )  # type: ignore[misc]
        self.drain_agents(within_s)

    def drain_agents(self, within_s: float = DRAIN_S) -> None:
        """Wait until every stage has acknowledged all that is in its input."""
        for stage in STAGES:
            self.rig.wait_for(lambda stage=stage: lag_of(self.plant.kafka, stage) == 0, f"{stage} has no lag", within_s)  # type: ignore[misc]

    def finish(self, *, told: bool = False, within_s: float = DRAIN_S) -> dict[str, Any]:
        """Stop sending, drain, and let the checker compare everything; the counts go to the outcome.

        `told`: readings may be missing where a gap frame says so. Returns the checker's report.
        """
        if self._load is not None:
            self.rig.note("plant", {k: v for k, v in self.stop_load().items() if k in ("sent", "overruns", "unheard")})
        self.drain(within_s)
        self.rig.note("resources", self.resources.summary())
        for name, use in self.resources.uses.items():
            self.rig.require(
                use.rss_max_mib <= MEMORY_MIB, f"{name} had {use.rss_max_mib:.0f} MiB, more than {MEMORY_MIB}"
            )
        with self.silent(within_s):
            return self.check(told=told)

    @contextmanager
    def silent(self, within_s: float = DRAIN_S) -> Iterator[None]:
        """For the block no connector writes, whose heartbeats would go on for ever, and the agents have done it all."""
        pids: list[int] = []
        for name in self.connectors:  # one that stood still before may be about to leave, and its pid be another then
            self.rig.wait_for(lambda name=name: self._stands_still(name, pids), f"{name} stands still", within_s)  # type: ignore[misc]
        try:
            self.drain_agents(within_s)
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    def _stands_still(self, name: str, pids: list[int]) -> bool:
        with suppress(ProcessLookupError, psutil.Error):
            pids.append(self.send_signal(name, signal.SIGSTOP))
            return psutil.Process(pids[-1]).status() == psutil.STATUS_STOPPED
        return False

    def check(self, told: bool = False) -> dict[str, Any]:
        """Fold raw in one process, and let the checker compare journal, topics, states and InfluxDB with it."""
        expected, found = self.run_dir / "expected.json", self.run_dir / "report.json"
        folded = self._run("-m", "tests.faults.fold", "--config", str(self.config), "--out", str(expected))
        assert folded == 0, f"the fold ended with {folded}: {self._checker_log()}"
        journals = [argument for path in self.journals for argument in ("--journal", str(path))]
        forged = [argument for asset in sorted(self.forged) for argument in ("--ignore", asset)]
        code = self._run(
            "-m", "audit", *journals, *forged,
            "--kafka", self.stack.kafka.bootstrap, "--prefix", self.plant.kafka.prefix,
            "--influx-url", self.stack.influxdb.url, "--influx-bucket", self.plant.influxdb.bucket_name,
            "--expected", str(expected), "--out", str(found),
        )  # fmt: skip
        assert code in (0, 1), f"the checker ended with {code}: {self._checker_log()}"
        report: dict[str, Any] = json.loads(found.read_text())
        self._judge(report, told)
        return report

    def _judge(self, report: dict[str, Any], told: bool) -> None:
        outcome, stored = self.rig.outcome, report["influxdb"]["readings"]
        sent = stored["mqtt"] + stored["opcua"]
        told_missing = sum(hole["missing"] for hole in report["told"])
        outcome.readings += sent
        outcome.missing += stored["missing"]
        outcome.repeated += stored["repeated"]
        outcome.altered += stored["altered"]
        outcome.told_missing += told_missing
        self.rig.require(sent, "readings were sent")
        self.rig.require(
            told or not told_missing, f"{told_missing} readings are missing, though gap frames tell of them"
        )
        examples = [sentences[0] for sentences in report["examples"].values() if sentences]
        self.rig.require(report["ok"], f"the checker finds {report['faults']}: {'; '.join(examples)}")
        self.rig.note("stages", report["stages"])
        self.rig.note("rejected", report["rejected"])
        self.rig.note("alerts", report["alerts"])

    def _checker_log(self) -> str:
        return (self.run_dir / "checker.log").read_text("utf-8", "replace")[-2000:]

    # -- services ----------------------------------------------------------------------------------------------------

    @contextmanager
    def without(self, service: str, clean: bool = False) -> Iterator[None]:
        """A service is away for the block: killed with -9, or stopped in its regular way."""
        one = getattr(self.stack, service)
        pid = one.pid
        one.stop() if clean else one.kill()
        self.rig.require(gone(pid), f"{service} (pid {pid}) is gone")
        self.rig.struck()
        try:
            yield
        finally:
            one.start()
            one.wait_ready(90)

    # -- for the tests of rows ---------------------------------------------------------------------------------------

    def twin(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run a command of the command line on this system."""
        return subprocess.run(
            twin_command(*arguments), cwd=ROOT, env=self._environment(), capture_output=True, text=True, check=False
        )

    def start_twin(self, *arguments: str, log: str) -> "subprocess.Popen[bytes]":
        """Start a command of the command line on this system, with its output in `log`."""
        with RunDir(self.run_dir).log(log).open("ab") as file:
            return subprocess.Popen(
                twin_command(*arguments), cwd=ROOT, env=self._environment(), stdout=file, stderr=file
            )

    def follow_topics(self) -> None:
        """Look at the generation of topics that is at work now, as after a rescale."""
        self.plant = self.plant.model_copy(update={"kafka": at_work(load_configuration(self.config).kafka)})
        before, self._pulse = self.pulse, Pulse(self.plant.kafka)
        before.close()
        self.rig.wait_for(lambda: self.pulse.sources >= before.sources, "every asset and connector is back", START_S)

    def _run(self, *arguments: str) -> int:
        with (self.run_dir / "checker.log").open("ab") as log:
            command = [sys.executable, *arguments]
            return subprocess.run(
                command, cwd=ROOT, env=self._environment(), stdout=log, stderr=log, timeout=CHECK_S, check=False
            ).returncode

    def _environment(self) -> dict[str, str]:
        return {
            **os.environ,
            **self.env,
            "TWIN_CONFIG": str(self.config),
            "TWIN_RUN_DIR": str(self.run_dir),
            "PYTHONPATH": str(ROOT),
        }

    def _sends(self) -> bool:
        assert self._load is not None
        assert self._load.poll() is None, (self.run_dir / "plant.log").read_text("utf-8", "replace")[-2000:]
        return self.journals[-1].exists() and self.journals[-1].stat().st_size > 0


def fail_file(run_dir: Path, stage: str) -> Path:
    """Where a stage with fail points looks for what is wanted."""
    return run_dir / f"fail-{stage}"


def _with_fail_points(spec: ProcessSpec, run_dir: Path) -> ProcessSpec:
    if spec.name not in STAGES:
        return spec
    argv = (sys.executable, "-m", "tests.faults.worker", spec.name)
    return replace(spec, argv=argv, env={**spec.env, "FAIL_FILE": str(fail_file(run_dir, spec.name))})


def metric_at(port: int | None, metric: str, **labels: str) -> float | None:
    """A metric of the process that serves at a port; None where it does not answer."""
    samples = supervisor._samples(port)
    return next((s.value for s in samples if s.name == metric and labels.items() <= s.labels.items()), None)


def gone(pid: int) -> bool:
    """Whether a process has ended; one that nobody has waited for yet has."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@contextmanager
def running(
    rig: Rig,
    stack: Stack,
    settings: Table | None = None,
    load: Load | None = DEFAULT_LOAD,
    *,
    influxdb_proxy: FaultProxy | None = None,
    kafka_proxy: TcpProxy | None = None,
    fail_points: bool = False,
) -> Iterator[System]:
    """A system on the services of `stack`, with the load flowing (None: none yet). Ended whatever happens.

    Connectors and agents go through the proxies that are given; this process does not. `fail_points`: agents run with
    the fail points of `tests.faults.worker`, for `System.fail_at`.
    """
    load = usual_load(rig.short) if load is DEFAULT_LOAD else load
    run_dir = rig.folder / "run"
    run_dir.mkdir(parents=True, exist_ok=True)
    env = {**stack.env, "OPCUA_URL": f"opc.tcp://127.0.0.1:{free_port()}"}
    config = run_dir / "plant.toml"
    config.write_text(tomlkit.dumps(_merged(_base(rig), settings or {})))
    os.environ.update(env)  # this process is the row's own: tools read addresses from the environment
    if influxdb_proxy is not None:
        env["INFLUX_URL"] = influxdb_proxy.url
    if kafka_proxy is not None:
        env["KAFKA_BOOTSTRAP"] = kafka_proxy.address
    plant = load_configuration(config)
    try:
        specs = processes(plant, run_dir)
        if fail_points:
            specs = [_with_fail_points(spec, run_dir) for spec in specs]
        supervisor.up(config, run_dir, specs, env, init=(topics_command(),))
        system = System(rig, stack, plant, config, run_dir, env, influxdb_proxy, kafka_proxy, fail_points)
        system._pulse = Pulse(plant.kafka)
        system._resources = Resources(system.pids)
        try:
            if load is not None:
                system.start_load(load)
            yield system
        finally:
            if system._load is not None:
                system._load.terminate()
                system._load.wait(60)
            system._resources.close()
            system._resources.write(system.run_dir / "resources.csv")
            system._pulse.close()
    finally:
        supervisor.down(run_dir)


def _base(rig: Rig) -> Table:
    """Small and quick, so that figures of recovery are the system's and not of its settings' patience."""
    return {
        "kafka": {"prefix": f"row{rig.outcome.row}-{rig.outcome.seed}", "partitions": 4},
        "opcua": [{"id": OPCUA, "security": "None", "mode": "None"}],
    }


def _merged(base: Table, more: Table) -> Table:
    merged = dict(base)
    for key, value in more.items():
        merged[key] = (
            _merged(merged[key], value) if isinstance(value, dict) and isinstance(merged.get(key), dict) else value
        )
    return merged
