"""A TCP proxy that is slow and breaks connections, as a bad line to Kafka does. It knows bytes, not Kafka."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager

CHUNK_BYTES = 64 * 1024
#: Closing with this sends a reset instead of a regular end.
_RESET = struct.pack("ii", 1, 0)


class TcpProxy:
    """Listens on loopback and passes on to `target`, which may come later.

    `delay_s` is added to what the target answers, in order, whatever the size. `reset_share` of all chunks break their
    connection. Both may be set from any thread at any time; `resets` and `delayed` count what was done to whom.
    """

    def __init__(self, target: tuple[str, int], seed: int = 1) -> None:
        self.target = target
        self.delay_s = 0.0
        self.reset_share = 0.0
        self.resets = self.delayed = 0
        self._random = random.Random(seed)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tcp-proxy", daemon=True)
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        """Where clients connect, host:port."""
        host, port = self._listener.getsockname()[:2]
        return f"{host}:{port}"

    def start(self) -> None:
        """Begin to listen."""
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10)

    def close(self) -> None:
        """Break every connection and listen no longer."""
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)
        self._loop.close()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._serve, sock=self._listener, limit=CHUNK_BYTES)

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _started(self, work: Coroutine[None, None, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self.target, limit=CHUNK_BYTES)
        except OSError:
            _break(writer)
            return
        ways = [
            self._started(self._pass_on(reader, far_writer, answers=False)),
            self._started(self._pass_on(far_reader, writer, answers=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for way in ways:
                way.cancel()
            _break(writer)
            _break(far_writer)

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: bool) -> None:
        """Until one side ends or the connection is broken."""
        # Bounded: a reader that is slow itself must slow its writer down.
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(256)
        sending = self._started(_send_in_time(chunks, writer))
        try:
            while chunk := await reader.read(CHUNK_BYTES):
                if self._random.random() < self.reset_share:
                    self.resets += 1
                    return
                delay_s = self.delay_s if answers else 0.0
                self.delayed += delay_s > 0
                await chunks.put((time.monotonic() + delay_s, chunk))
                if sending.done():
                    return
        except OSError:
            return
        finally:
            sending.cancel()


async def _send_in_time(chunks: "asyncio.Queue[tuple[float, bytes]]", writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while True:
            due_s, chunk = await chunks.get()
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            writer.write(chunk)
            await writer.drain()


def _break(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


@contextmanager
def tcp_proxy(target: tuple[str, int], seed: int = 1) -> Iterator[TcpProxy]:
    """A proxy in front of `target` while the block runs."""
    proxy = TcpProxy(target, seed)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.close()
