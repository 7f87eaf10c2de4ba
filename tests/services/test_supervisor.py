"""The supervisor with tiny real processes: start, restart, ordered stop, and what happens when it is killed."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path

import psutil
import pytest

from services import supervisor
from services.errors import ServiceError
from services.processes import SECRETS, ProcessId
from services.spec import ProcessSpec, ProcessStatus, SupervisorState

# Addresses of our own services: then the supervisor starts none, and these tests need none.
EXTERNAL = {
    "KAFKA_BOOTSTRAP": "127.0.0.1:1",
    "MQTT_HOST": "127.0.0.1",
    "MQTT_PORT": "1",
    "INFLUX_URL": "http://127.0.0.1:1",
    "INFLUX_ORG": "o",
    "INFLUX_BUCKET": "b",
    "INFLUX_TOKEN": "t0ken",
}
# A stage in small: metrics on the port it was given, and a journal of when it started and was stopped.
STAGE = """
import os, signal, sys, time
from prometheus_client import Gauge, start_http_server
name, journal = sys.argv[1:3]
def note(what):
    with open(journal, "a") as file:
        file.write(f"{what} {name}\\n")
def end(*_):
    note("stop")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
Gauge("stage_up", "1 while it runs", ["bootstrap"]).labels(os.environ["KAFKA_BOOTSTRAP"]).set(1)
note("start")
start_http_server(int(os.environ["TWIN_METRICS_PORT"]), "127.0.0.1")
while True:
    time.sleep(0.05)
"""


class Run:
    """A run folder, its journal, and short-hands for the functions under test."""

    def __init__(self, folder: Path) -> None:
        self.dir = folder / "run"
        self.journal_file = folder / "journal"

    def stage(self, name: str, stop_order: int = 0) -> ProcessSpec:
        """A process that serves metrics and writes the journal."""
        argv = (sys.executable, "-c", STAGE, name, str(self.journal_file))
        return ProcessSpec(name, argv, stop_order=stop_order)

    def up(
        self, *processes: ProcessSpec, init: tuple[ProcessSpec, ...] = (), timeout_s: float = 30.0
    ) -> dict[str, str]:
        """Start in the background."""
        return supervisor.up(None, self.dir, processes, EXTERNAL, init=init, ready_timeout_s=timeout_s)

    def status(self, name: str) -> ProcessStatus:
        """The status of one process."""
        return next(one for one in supervisor.status(self.dir) if one.name == name)

    def state(self) -> SupervisorState:
        """What the supervisor wrote last."""
        state = SupervisorState.read(self.dir / "supervisor.json")
        assert state is not None
        return state

    def journal(self) -> list[str]:
        """Lines `start NAME` and `stop NAME` in the order they happened."""
        return self.journal_file.read_text().splitlines()

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        """Wait for a condition, at most 20 s."""
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline, what
            time.sleep(0.05)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    """A run folder of its own; whatever a failed test left running there is stopped by pid."""
    one = Run(tmp_path)
    yield one
    supervisor.down(one.dir)


def python(name: str, code: str, secrets: tuple[str, ...] = ()) -> ProcessSpec:
    """A process without metrics."""
    return ProcessSpec(name, (sys.executable, "-c", code), has_metrics=False, secrets=secrets)


def test_up_returns_when_all_answer_and_status_shows_them(run: Run) -> None:
    """After `up` every process answers on its metrics port, and status has its figures and samples."""
    env = run.up(run.stage("one"), run.stage("two"))
    assert env == EXTERNAL == supervisor.env(run.dir)
    lines = {line.name: line for line in supervisor.status(run.dir)}
    assert list(lines) == ["supervisor", "one", "two"]
    for name in ("one", "two"):
        line = lines[name]
        assert line.state == "running"
        assert line.restarts == 0
        assert line.rss_mib > 5
        assert line.uptime_s > 0
        assert line.pid is not None
        found = [sample for sample in line.samples if sample.name == "stage_up"]
        assert [(sample.value, sample.labels) for sample in found] == [(1.0, {"bootstrap": "127.0.0.1:1"})]


def test_processes_stop_in_their_order(run: Run) -> None:
    """`down` stops ascending by stop order whatever the order of the start, and reports how each ended."""
    run.up(run.stage("last", 30), run.stage("first", 10), run.stage("second", 20))
    report = supervisor.down(run.dir)
    assert run.journal()[3:] == ["stop first", "stop second", "stop last"]
    assert report.was_running
    assert {one.name: one.last_exit_code for one in report.processes} == {"last": 0, "first": 0, "second": 0}
    assert all(one.state == "stopped" for one in report.processes)
    assert supervisor.down(run.dir) == supervisor.DownReport(was_running=False)


def test_init_commands_run_once_before_the_processes(run: Run) -> None:
    """One-shot commands run in order, with the addresses in their environment, before any process starts."""
    journal = repr(str(run.journal_file))
    note = f"import os; open({journal}, 'a').write('init ' + os.environ['INFLUX_ORG'] + chr(10))"
    run.up(run.stage("one"), init=(python("first init", note), python("second init", note)))
    org = EXTERNAL["INFLUX_ORG"]
    assert run.journal() == [f"init {org}", f"init {org}", "start one"]


def test_a_process_has_the_secrets_it_was_given_by_name_and_no_other(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of four secrets, two of them in the environment of `up` and one in the addresses, a process sees those that its
    specification names."""
    for name in SECRETS:
        monkeypatch.setenv(name, f"of-{name}")
    journal = repr(str(run.journal_file))
    note = f"import os; open({journal}, 'a').write(' '.join(sorted(set({SECRETS}) & set(os.environ))) + chr(10))"
    run.up(init=(python("none", note), python("two", note, secrets=("MQTT_PASSWORD", "INFLUX_TOKEN"))))
    assert run.journal() == ["", "INFLUX_TOKEN MQTT_PASSWORD"]


def test_a_failing_init_command_stops_everything(run: Run) -> None:
    """When a one-shot command fails, `up` says which, and nothing is left running."""
    with pytest.raises(ServiceError, match=r"topics failed with code 3; see .*topics\.log"):
        run.up(run.stage("one"), init=(python("topics", "raise SystemExit(3)"),))
    assert run.state().phase == "failed"
    assert not run.journal_file.exists()


@pytest.mark.kill
def test_a_killed_process_comes_back(run: Run) -> None:
    """Kill -9 of a process is answered by a new one on the same metrics port, counted as a restart."""
    run.up(run.stage("one"))
    before = run.status("one")
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    run.wait(lambda: run.status("one").restarts == 1 and run.status("one").state == "running", "no restart")
    after = run.status("one")
    assert after.pid != before.pid
    assert after.last_exit_code == -signal.SIGKILL
    assert after.samples
    assert run.journal() == ["start one", "start one"]


def test_exit_75_comes_back_at_once(run: Run, tmp_path: Path) -> None:
    """A process that leaves with 75 runs again in well under the pause of a failure."""
    marks = tmp_path / "marks"
    code = (
        f"import os, sys, time; first = not os.path.exists({str(marks)!r})\n"
        f"open({str(marks)!r}, 'a').write(f'{{time.time()}}\\n')\n"
        "sys.exit(75) if first else time.sleep(60)"
    )
    run.up(python("stage", code))
    run.wait(lambda: marks.exists() and len(marks.read_text().splitlines()) == 2, "no second start")
    first, second = (float(line) for line in marks.read_text().splitlines())
    assert 0.2 <= second - first < 0.9
    run.wait(lambda: run.state().processes[0].last_exit_code == 75, "exit code never noted")


def test_exit_78_is_not_started_again(run: Run) -> None:
    """A process that ends because of its configuration is failed, not restarted, and `up` and `status` say so; the
    others go on."""
    broken = ProcessSpec("broken", (sys.executable, "-c", "raise SystemExit(78)"))
    with pytest.raises(ServiceError, match=r"broken: configuration \(exit code 78\).*see .*broken\.log"):
        run.up(run.stage("one"), broken)
    time.sleep(1.5)  # three times the first pause
    shown = run.status("broken")
    assert (shown.state, shown.restarts, shown.last_exit_code, shown.pid) == ("failed", 0, 78, None)
    assert "exit code 78" in shown.trouble
    assert run.status("one").state == "running"


def test_exit_75_again_and_again_is_no_hot_loop(run: Run, tmp_path: Path) -> None:
    """A process that leaves with 75 as soon as it starts is started again after pauses that grow."""
    marks = tmp_path / "marks"
    code = f"import time; open({str(marks)!r}, 'a').write(f'{{time.time()}}\\n'); raise SystemExit(75)"
    run.up(python("stage", code))
    run.wait(lambda: marks.exists() and len(marks.read_text().splitlines()) == 5, "no five starts")
    times = [float(line) for line in marks.read_text().splitlines()]
    pauses = [after - before for before, after in pairwise(times)]
    assert all(pause >= least for pause, least in zip(pauses, (0.2, 0.5, 1.0, 2.0), strict=True)), pauses


UNREADY = """
import os, sys, time
from pathlib import Path
from runtime import probes
from runtime.health import HEALTH
if sys.argv[1] == "ill":
    HEALTH.ill("influxdb", "no answer")
probes.serve("one")
while Path(sys.argv[2]).exists() or sys.argv[1] != "ill":
    time.sleep(0.05)
HEALTH.well("influxdb")
time.sleep(60)
"""


def test_a_process_that_makes_no_progress_is_reported(run: Run, tmp_path: Path) -> None:
    """A process that runs but is not ready keeps running; the supervisor notes why and that it is over, and `status`
    shows the reason. One that stands still does not answer."""
    ill = tmp_path / "ill"
    ill.touch()
    parts = [ProcessSpec(name, (sys.executable, "-c", UNREADY, name, str(ill))) for name in ("ill", "well")]
    run.up(*parts)
    assert (run.status("ill").trouble, run.status("well").trouble) == ("influxdb: no answer", "")
    run.wait(lambda: run.state().processes[0].trouble == "influxdb: no answer", "not noted")
    ill.unlink()
    run.wait(lambda: run.status("ill").trouble == "" and run.state().processes[0].trouble == "", "not over")
    log = (run.dir / "logs" / "supervisor.log").read_text()
    assert "ill: not ready: influxdb: no answer" in log and "ill: ready again, after: influxdb" in log
    pid = run.status("well").pid
    assert pid is not None
    os.kill(pid, signal.SIGSTOP)
    assert run.status("well").trouble == "does not answer"
    os.kill(pid, signal.SIGCONT)
    assert [run.status(name).restarts for name in ("ill", "well")] == [0, 0]


def test_a_process_that_never_gets_ready_is_named(run: Run) -> None:
    """`up` gives up after its time, names what is not ready and why, and leaves the rest running."""
    broken = ProcessSpec("broken", (sys.executable, "-c", "raise SystemExit(7)"))
    with pytest.raises(ServiceError, match=r"broken: waiting, \d restarts, last exit code 7; see .*broken\.log"):
        run.up(run.stage("one"), broken, timeout_s=2.0)
    assert run.status("one").state == "running"


def test_up_when_already_up_is_refused(run: Run) -> None:
    """A second `up` in the same folder says so, and changes nothing."""
    run.up(run.stage("one"))
    before = run.status("one").pid
    with pytest.raises(ServiceError, match="already up"):
        run.up(run.stage("one"))
    assert run.status("one").pid == before


@pytest.mark.kill
def test_children_do_not_survive_a_killed_supervisor(run: Run) -> None:
    """Kill -9 of the supervisor ends its processes, status says so, and `up` works again."""
    run.up(run.stage("one"), run.stage("two"))
    pids = [line.pid for line in supervisor.status(run.dir) if line.pid is not None]
    assert len(pids) == 3
    os.kill(run.state().pid, signal.SIGKILL)
    run.wait(lambda: not any(psutil.pid_exists(pid) and _alive(pid) for pid in pids), "orphans")
    assert [line.state for line in supervisor.status(run.dir)] == ["stopped", "gone", "gone"]
    run.up(run.stage("one"))
    assert run.status("one").state == "running"


@pytest.mark.services
@pytest.mark.kill
def test_a_killed_service_comes_back_on_its_port(run: Run) -> None:
    """A service that dies is started again on the same port and data, while the processes go on."""
    external = {key: value for key, value in EXTERNAL.items() if not key.startswith("MQTT")}
    env = supervisor.up(None, run.dir, [run.stage("one")], external)
    before = run.status("mosquitto")
    assert before.is_service
    assert before.pid is not None
    os.kill(before.pid, signal.SIGKILL)
    run.wait(lambda: run.status("mosquitto").restarts == 1 and run.status("mosquitto").state == "running", "no broker")
    with socket.create_connection((env["MQTT_HOST"], int(env["MQTT_PORT"])), timeout=5):
        pass
    assert run.status("one").restarts == 0
    supervisor.down(run.dir)
    assert supervisor.up(None, run.dir, [], external)["MQTT_PORT"] == env["MQTT_PORT"]


def _alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def test_a_stale_state_never_ends_a_stranger(run: Run) -> None:
    """With the pids of a stale state file reused by other processes, `down` and `up` leave those alone."""
    run.up(run.stage("one"))
    supervisor.down(run.dir)
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        state = run.state()
        state.pid, state.phase = stranger.pid, "ready"
        state.processes[0].pid = stranger.pid
        state.write(run.dir / "supervisor.json")
        assert supervisor.down(run.dir) == supervisor.DownReport(was_running=False)
        run.up(run.stage("one"))
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_survivors_of_an_earlier_supervisor_are_ended(run: Run) -> None:
    """A process that outlived its supervisor, as a service that is slow to stop may, is ended by `down`."""
    run.up(run.stage("one"))
    supervisor.down(run.dir)
    survivor = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    state = run.state()
    state.processes[0].pid = survivor.pid
    identity = ProcessId.of(survivor.pid)
    assert identity is not None
    state.processes[0].started = identity.started
    state.write(run.dir / "supervisor.json")
    assert supervisor.down(run.dir).left_behind == ("one",)
    assert survivor.wait(5) == -signal.SIGTERM


def test_what_holds_the_token_is_private(run: Run) -> None:
    """The files with addresses and tokens can be read by their owner only; the state file holds no token."""
    run.up(run.stage("one"))
    for name in ("env", "plan.json", "supervisor.json"):
        assert stat.S_IMODE((run.dir / name).stat().st_mode) == 0o600
    assert "t0ken" not in (run.dir / "supervisor.json").read_text()
    assert json.loads((run.dir / "plan.json").read_text())["external"]["INFLUX_TOKEN"] == "t0ken"


def test_looking_at_a_folder_makes_nothing_in_it(run: Run) -> None:
    """`status`, `down` and `env` where nothing was ever started tell so, and leave no folder behind."""
    assert supervisor.status(run.dir) == []
    assert supervisor.down(run.dir) == supervisor.DownReport(was_running=False)
    with pytest.raises(ServiceError, match="nothing was started in"):
        supervisor.env(run.dir)
    assert not run.dir.exists()


def test_a_half_given_external_service_is_refused(run: Run) -> None:
    """An InfluxDB address without its token is an error that names what is missing, before anything starts."""
    with pytest.raises(ServiceError, match="INFLUX_TOKEN is missing"):
        supervisor.up(None, run.dir, [], {**EXTERNAL, "INFLUX_TOKEN": ""})


def test_foreground_runs_until_sigterm(run: Run, tmp_path: Path) -> None:
    """In the foreground, `up` comes back after SIGTERM with everything stopped."""
    code = (
        "import sys, json\nfrom pathlib import Path\nfrom services import supervisor\n"
        "from services.spec import ProcessSpec\n"
        "spec = ProcessSpec('one', tuple(json.loads(sys.argv[2])))\n"
        "supervisor.up(None, Path(sys.argv[1]), [spec], json.loads(sys.argv[3]), True)\n"
    )
    argv = json.dumps(run.stage("one").argv)
    front = subprocess.Popen(
        [sys.executable, "-c", code, str(run.dir), argv, json.dumps(EXTERNAL)], stdout=subprocess.PIPE, text=True
    )
    assert front.stdout is not None
    assert front.stdout.readline() == "ready\n"
    front.terminate()
    assert front.wait(15) == 0
    front.stdout.close()
    assert run.journal() == ["start one", "stop one"]


def test_a_log_stays_bounded(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A log that outgrew its bound is kept once as .1 and starts anew, while the process goes on writing."""
    from services import supervised
    from services.processes import spawn
    from services.spec import ProcessState

    monkeypatch.setattr(supervised, "MAX_LOG_BYTES", 10_000)
    log = tmp_path / "talker.log"
    code = "import time\nwhile True:\n    print('x' * 100, flush=True); time.sleep(0.001)"
    child = supervised.Supervised(
        ProcessState("talker", is_service=False),
        launch=lambda: spawn([sys.executable, "-c", code], log=log),
        probe=lambda: True,
        log=log,
        stop_order=0,
        stop_timeout_s=5.0,
    )
    child.start()
    try:
        run.wait(lambda: log.exists() and log.stat().st_size > 10_000, "nothing written")
        child.bound_log()
        assert log.with_name("talker.log.1").stat().st_size > 10_000
        assert log.stat().st_size < 10_000
        run.wait(lambda: log.stat().st_size > 1_000, "the process stopped writing")
        assert log.read_bytes()[:1] == b"x"
    finally:
        child.ask_to_stop()
        child.wait_stopped(time.monotonic() + 5)
