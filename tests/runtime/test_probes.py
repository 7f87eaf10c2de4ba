"""Health over HTTP: what probes are told, and that nobody can harm a process by asking."""

import json
import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from prometheus_client.metrics import MetricWrapperBase

from runtime import exit_codes, metrics
from runtime.health import Health
from services.processes import free_port

#: A process with health; a line on standard input is done in it.
PROGRAM = """
import sys, time, threading
from runtime.health import HEALTH
from runtime.probes import serve
serve("test")
HEALTH.patience_s = 2.0
print("up", flush=True)
for line in sys.stdin:
    exec(line)
    print("done", flush=True)
"""


class Process:
    """A process that serves, and what can be asked."""

    def __init__(self, **env: str) -> None:
        self.port = free_port()
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "TWIN_METRICS_PORT": str(self.port), **env},
        )
        assert self.process.stdout is not None and self.process.stdout.readline() == "up\n"

    def do(self, line: str) -> None:
        """Have a line done."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n"

    def get(self, path: str) -> tuple[int, str]:
        """Status and body."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=10) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def say(self, data: bytes) -> bytes:
        """What comes back for these bytes, until the connection is closed."""
        found = b""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as peer:
            try:
                peer.sendall(data)
                peer.shutdown(socket.SHUT_WR)
                while more := peer.recv(65536):
                    found += more
            except TimeoutError:
                raise
            except OSError:
                pass  # cut off
        return found


@pytest.fixture(scope="module")
def process() -> Iterator[Process]:
    """One process for all tests."""
    one = Process()
    yield one
    one.process.kill()
    one.process.wait()


def test_ready_is_progress_and_says_why_not(process: Process) -> None:
    """/ready is 200 until a part is ill, then 503 with every reason; /live does not mind; /health has all of it."""
    assert (process.get("/ready"), process.get("/live")) == ((200, "ok\n"), (200, "ok\n"))
    process.do("HEALTH.describe('kafka', lambda: {'unconfirmed': 7})")
    process.do("HEALTH.ill('kafka', 'no answer'); HEALTH.ill('mqtt', 'refused'); HEALTH.well('spool')")
    assert process.get("/ready") == (503, "kafka: no answer\nmqtt: refused\n")
    assert process.get("/live")[0] == 200
    told = json.loads(process.get("/health")[1])
    assert (told["process"], told["state"]) == ("test", "not ready")
    assert told["version"] == json.loads(process.get("/health")[1])["version"] != "unknown"
    assert told["parts"]["kafka"] == {"well": False, "reason": "no answer", "unconfirmed": 7}
    assert told["parts"]["spool"] == {"well": True, "reason": ""}
    assert 'twin_connected{peer="mqtt"} 0.0' in process.get("/metrics")[1]
    process.do("HEALTH.well('kafka'); HEALTH.well('mqtt')")
    assert process.get("/ready")[0] == 200
    assert json.loads(process.get("/health")[1])["state"] == "ready"


def test_live_is_a_beating_loop(process: Process) -> None:
    """A loop that stops beating makes /live and /ready 503 and says which; one that ended regularly does not."""
    process.do("HEALTH.beat('loop'); HEALTH.beat('other')")
    assert process.get("/live")[0] == 200
    process.do("time.sleep(1.2); HEALTH.beat('other')")
    status, why = process.get("/live")
    assert (status, bool(re.fullmatch(r"the loop has been silent for \d s\n", why))) == (503, True), why
    assert process.get("/ready")[0] == 503
    assert json.loads(process.get("/health")[1])["state"] == "stuck"
    process.do("HEALTH.rest('loop'); HEALTH.rest('other')")
    assert process.get("/live")[0] == 200


def test_metrics_tell_of_memory_and_handles(process: Process) -> None:
    """Resident memory and open file handles of the process are among the metrics, as they are."""
    text = process.get("/metrics")[1]
    shown = {
        name: float(re.findall(rf"^process_{name} (\S+)$", text, re.M)[0])
        for name in ("resident_memory_bytes", "open_fds")
    }
    actual = psutil.Process(process.process.pid)
    assert shown["resident_memory_bytes"] == pytest.approx(actual.memory_info().rss, rel=0.2)
    assert abs(shown["open_fds"] - actual.num_fds()) <= 5
    for name in ("twin_last_commit_time_seconds", "twin_last_reading_time_seconds", "twin_standstill_seconds",
                 "twin_assigned_partitions", "twin_unconfirmed_records", "twin_healthy"):  # fmt: skip
        assert f"\n{name} " in text


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"POST /ready HTTP/1.1\r\n\r\n", b"405"),
        (b"GET /table HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /../../etc/passwd HTTP/1.0\r\n\r\n", b"404"),
        (b"GET /ready?x=1 HTTP/1.0\r\nHost: a\r\n\r\n", b"200"),
        (b"GET /ready\r\n\r\n", b"400"),
        (b"GET /ready SMTP/1\r\n\r\n", b"400"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        (b"GET /ready HTTP/1.1\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", b"431"),
        (b"GET /" + b"y" * 1_000_000, b"431"),
    ],
)
def test_bad_requests_are_refused(process: Process, request_bytes: bytes, status: bytes) -> None:
    """What is no GET of a path that exists gets the status that says so, or no answer where it was cut off."""
    answer = process.say(request_bytes)
    assert answer.startswith(b"HTTP/1.1 " + status) or (status == b"431" and answer == b"")


def test_garbage_and_slow_clients_harm_nobody(process: Process) -> None:
    """Random bytes, and more connections than are served that send a byte now and then: probes are answered at once all
    the while, memory stays, and the connections are gone when their time is over."""
    source = random.Random(7)
    own = psutil.Process(process.process.pid)
    before, handles = own.memory_info().rss, own.num_fds()
    for _ in range(100):
        process.say(source.randbytes(source.randrange(1, 3000)))
    slow = [socket.create_connection(("127.0.0.1", process.port), timeout=10) for _ in range(200)]
    try:
        for _ in range(3):
            for one in slow:
                try:
                    one.sendall(b"G")
                except OSError:
                    continue
            began = time.monotonic()
            assert process.get("/ready")[0] == 200
            assert time.monotonic() - began < 2.0
        assert own.num_fds() < handles + 60, "too many are served at a time"
        assert own.num_threads() <= 4
        end_s = time.monotonic() + 15
        while own.num_fds() > handles + 2:
            assert time.monotonic() < end_s, "slow connections are kept"
            time.sleep(0.1)
    finally:
        for one in slow:
            one.close()
    assert own.memory_info().rss - before < 20 * 2**20


def test_asking_costs_little(process: Process) -> None:
    """A hundred probes cost less than a second of processor time, so one every few seconds is nothing."""
    own = psutil.Process(process.process.pid)
    before = sum(own.cpu_times()[:2])
    for _ in range(100):
        process.get("/ready")
    assert sum(own.cpu_times()[:2]) - before < 1.0


def test_only_loopback_by_default(process: Process) -> None:
    """Nobody on the network can ask, unless TWIN_METRICS_HOST says so."""
    listening = [
        c.laddr for c in psutil.Process(process.process.pid).net_connections() if c.status == psutil.CONN_LISTEN
    ]
    assert [(address.ip, address.port) for address in listening] == [("127.0.0.1", process.port)]


def test_it_answers_while_the_main_thread_is_stuck(process: Process) -> None:
    """A sleep in the main thread does not keep probes from being told."""
    thread = threading.Thread(target=process.do, args=("HEALTH.beat(); time.sleep(2.5); HEALTH.rest('main loop')",))
    thread.start()
    time.sleep(1.5)
    assert process.get("/live")[0] == 503
    thread.join()
    assert process.get("/live")[0] == 200


def test_every_exit_code_is_documented() -> None:
    """docs/operation.md has a line for every exit code of ours, and for no other."""
    text = (Path(__file__).parents[2] / "docs" / "operation.md").read_text()
    table = text.split("## Exit codes", 1)[1].split("\n## ", 1)[0]
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)}
    assert documented == {v for k, v in vars(exit_codes).items() if k.isupper()}


def test_every_metric_is_documented() -> None:
    """docs/operation.md names every metric of ours, and no other."""
    text = (Path(__file__).parents[2] / "docs" / "operation.md").read_text()
    table = text.split("## Metrics", 1)[1].split("\n## ", 1)[0]
    ours = {m._name for m in vars(metrics).values() if isinstance(m, MetricWrapperBase)}
    assert {name.removesuffix("_total") for name in re.findall(r"^\| `(twin_\w+)", table, re.M)} == ours


def test_health_forgives_a_machine_that_stood_still() -> None:
    """After the whole process was stopped no loop is called silent for it."""
    health = Health()
    health.beat("loop")
    later = time.monotonic() + 100
    assert health.silence(later)[1] > 99
    health.forgive()
    assert health.silence(time.monotonic())[1] < 1
