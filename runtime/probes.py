"""Metrics and health of this process over HTTP, for Prometheus, Docker, Kubernetes and `twin status`.

| path       | answer                                                                                      |
|------------|---------------------------------------------------------------------------------------------|
| `/metrics` | Prometheus's text format                                                                    |
| `/live`    | 200 while the process's loops come round; else 503 and which one does not: start it again   |
| `/ready`   | 200 while it makes progress or has nothing to do; else 503 and why: starting again is no use |
| `/health`  | 200 and everything as JSON                                                                  |

One thread with an event loop of its own, so that it answers while the process's is stuck. Whoever asks slowly or too
much harms himself only: a request has REQUEST_S and REQUEST_BYTES, and the oldest gives way when there are too many.
"""

import asyncio
import os
import threading
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import orjson
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from runtime.health import HEALTH, Health

REQUEST_S = 5.0
REQUEST_BYTES = 8 * 1024
REQUESTS_MAX = 32
TEXT = "text/plain; charset=utf-8"
REASONS = {
    200: "OK", 400: "Bad Request", 404: "Not Found", 405: "Method Not Allowed", 431: "Request Header Fields Too Large",
    500: "Internal Server Error", 503: "Service Unavailable",
}  # fmt: skip

Answer = tuple[int, str, bytes]


def serve(process: str, health: Health = HEALTH) -> None:
    """Answer at TWIN_METRICS_PORT on 127.0.0.1 until the process ends; not at all where that is not set.

    TWIN_METRICS_HOST changes the address, for a container whose health is probed from outside. Raises OSError.
    """
    port = os.environ.get("TWIN_METRICS_PORT")
    if port:
        Probes(process, health).start(os.environ.get("TWIN_METRICS_HOST", "127.0.0.1"), int(port))


class Probes:
    """The server of one process."""

    def __init__(self, process: str, health: Health) -> None:
        self._health = health
        self._about = {"process": process, "version": _version()}
        self._asking: list[asyncio.Task[None]] = []
        self._paths: dict[bytes, Callable[[], Answer]] = {
            b"/metrics": lambda: (200, CONTENT_TYPE_LATEST, generate_latest()),
            b"/live": lambda: _verdict([self._health.why_not_live()]),
            b"/ready": lambda: _verdict(self._health.why_not_ready()),
            b"/health": lambda: (200, "application/json", orjson.dumps(self._about | self._health.report())),
        }

    def start(self, host: str, port: int) -> None:
        """Listen; returns when it does. Raises OSError."""
        loop = asyncio.new_event_loop()
        opening = asyncio.start_server(self._ask, host, port, limit=REQUEST_BYTES)
        server = loop.run_until_complete(opening)
        threading.Thread(
            target=loop.run_until_complete, args=(server.serve_forever(),), name="probes", daemon=True
        ).start()

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._asking.append(task)
        if len(self._asking) > REQUESTS_MAX:
            self._asking.pop(0).cancel()
        try:
            async with asyncio.timeout(REQUEST_S):
                answer = await self._answer_to(reader)
                writer.write(_packed(*answer))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, EOFError, asyncio.CancelledError):
            pass  # whoever asked has left, or was too slow
        finally:
            writer.transport.abort()
            if task in self._asking:
                self._asking.remove(task)

    async def _answer_to(self, reader: asyncio.StreamReader) -> Answer:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except asyncio.LimitOverrunError:
            return 431, TEXT, b"too large\n"
        try:
            method, target, protocol = head.split(b"\r\n", 1)[0].split(b" ")
        except ValueError:
            return 400, TEXT, b"no HTTP request\n"
        if not protocol.startswith(b"HTTP/1."):
            return 400, TEXT, b"no HTTP request\n"
        path = self._paths.get(target.split(b"?", 1)[0])
        if path is None:
            return 404, TEXT, b"there are " + b" ".join(self._paths) + b"\n"
        if method != b"GET":
            return 405, TEXT, b"GET only\n"
        try:
            return path()
        except Exception as error:
            return 500, TEXT, f"{error!r}\n".encode()


def _verdict(reasons: list[str]) -> Answer:
    found = [reason for reason in reasons if reason]
    return (503, TEXT, "".join(f"{reason}\n" for reason in found).encode()) if found else (200, TEXT, b"ok\n")


def _packed(status: int, kind: str, body: bytes) -> bytes:
    head = (
        f"HTTP/1.1 {status} {REASONS[status]}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + body


def _version() -> str:
    try:
        return version("process-twin")
    except PackageNotFoundError:  # run from its folder without having been installed
        return "unknown"
