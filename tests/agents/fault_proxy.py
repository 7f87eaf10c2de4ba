"""A proxy in front of InfluxDB that misbehaves as told, request by request, and else passes everything on."""

import http.client
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import urlsplit

HANG_S = 3.0


class Trouble(NamedTuple):
    """What happens to one request. `kind`: "answer" (this status instead), "hang" (no answer for `seconds`, then
    closed), "slow" (stored, answered after `seconds`), "reset" (closed unanswered), "half_closed" (stored, then closed
    before an answer).
    """

    kind: str
    status: int = 0
    retry_after: str | None = None
    largest_body: int = 0  # "answer" only for bodies beyond this
    seconds: float = HANG_S


class FaultProxy(ThreadingHTTPServer):
    """Listens on loopback. `troubles` are used up from the front, `always` does not end; `troubled` counts requests
    that met one.
    """

    daemon_threads = True

    def __init__(self, target: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target)
        self.troubles: list[Trouble] = []
        self.always: Trouble | None = None
        self.times_s: list[float] = []
        self.bodies: list[int] = []
        self.troubled = 0
        self._kill: tuple[str, subprocess.Popen[bytes]] | None = None

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes away, as a killed one does, is no error here."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)

    def kill_at(self, place: str, process: "subprocess.Popen[bytes]") -> None:
        """Kill a process with -9 at the next request InfluxDB has stored: "before_answer" or "after_answer"."""
        self._kill = (place, process)

    def passed(self, place: str) -> None:
        """A request has come to this place."""
        if self._kill is not None and self._kill[0] == place:
            self._kill[1].kill()
            self._kill = None

    @property
    def url(self) -> str:
        """Its address for clients."""
        return f"http://127.0.0.1:{self.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultProxy

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.times_s.append(time.monotonic())
        self.server.bodies.append(len(body))
        trouble = self.server.always or (self.server.troubles.pop(0) if self.server.troubles else None)
        if trouble is None or (trouble.largest_body and len(body) <= trouble.largest_body):
            status, text = self._pass_on(body)
            self.server.passed("before_answer")
            self._answer(status, text)
            self.server.passed("after_answer")
            return
        self.server.troubled += 1
        if trouble.kind == "answer":
            self._answer(trouble.status, b'{"message":"as told"}', trouble.retry_after)
        elif trouble.kind == "slow":
            status, text = self._pass_on(body)
            time.sleep(trouble.seconds)
            self._answer(status, text)
        else:
            if trouble.kind == "half_closed":
                self._pass_on(body)
            elif trouble.kind == "hang":
                time.sleep(trouble.seconds)
            self.close_connection = True

    def _pass_on(self, body: bytes) -> tuple[int, bytes]:
        target = self.server.target
        assert target.hostname is not None
        connection = http.client.HTTPConnection(target.hostname, target.port, timeout=10)
        passed_on = ("Authorization", "Accept", "Content-Type")
        connection.request("POST", self.path, body, {name: self.headers[name] for name in passed_on})
        answer = connection.getresponse()
        text = answer.read()
        connection.close()
        return answer.status, text

    def _answer(self, status: int, body: bytes, retry_after: str | None = None) -> None:
        self.send_response(status)
        if retry_after is not None:
            self.send_header("Retry-After", retry_after)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if status != 204:
            self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests look at what came."""


@contextmanager
def fault_proxy(target: str) -> Iterator[FaultProxy]:
    """A proxy in front of `target` while the block runs."""
    proxy = FaultProxy(target)
    thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield proxy
    finally:
        proxy.shutdown()
        thread.join()
        proxy.server_close()
