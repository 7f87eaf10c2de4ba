"""What the auditor makes of answers of InfluxDB that are none, without an InfluxDB."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest

from audit.store import Database, StoreError

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/csv\r\n"
ROWS = b"name,tags,time,source,seq,stored_ns\nreactor_frame,,5,mqtt-1,1,7\nreactor_frame,,6,mqtt-1,2,8\n"
LAST = b"\nname,tags,name\ndatabases,,plant\n"
WHOLE = ROWS + LAST
ANSWERS = {
    "shorter than its length": HEAD + b"Content-Length: 500\r\n\r\n" + WHOLE,
    "a piece is missing": HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(WHOLE), WHOLE),
    "within a number": HEAD + b"Connection: close\r\n\r\n" + ROWS[:-2],
    "within the last table": HEAD + b"Connection: close\r\n\r\n" + WHOLE[:-2],
    "within a row": HEAD + b"Connection: close\r\n\r\n" + ROWS + b"reactor_frame,,7\n" + LAST,
    "an error behind rows": HEAD + b"Connection: close\r\n\r\n" + ROWS + b"\nerror\nshard is gone\n" + LAST,
    "a failure behind rows": HEAD + b"Connection: close\r\n\r\n" + ROWS,
    "a failure before rows": HEAD + b"Connection: close\r\n\r\n",
    "no answer": b"",
    "an error, cut off": b"HTTP/1.1 500 Internal\r\nContent-Length: 500\r\n\r\n{",
}


@contextmanager
def answering(answer: bytes) -> Iterator[Database]:
    """A database of which every question gets this answer, and the connection is closed then."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            with suppress(OSError):  # the server is closed
                while True:
                    connection, _ = server.accept()
                    with connection:
                        asked = b""
                        while b"params=" not in asked:
                            asked += connection.recv(65536)
                        connection.sendall(answer)
                        connection.shutdown(socket.SHUT_WR)
                        connection.recv(65536)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield Database(url=f"http://127.0.0.1:{server.getsockname()[1]}", bucket="plant", token="t", timeout_s=10)
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_a_whole_answer_is_read() -> None:
    """The rows of an answer of the right length are all there."""
    with answering(HEAD + b"Content-Length: %d\r\n\r\n" % len(WHOLE) + WHOLE) as database:
        assert database.stored_times("R101", 0) == {("mqtt-1", 1): [7], ("mqtt-1", 2): [8]}


def test_an_answer_without_rows_is_read() -> None:
    """No rows are no rows where the end of the answer is there."""
    with answering(HEAD + b"Connection: close\r\n\r\n" + LAST.lstrip()) as database:
        assert database.stored_times("R101", 0) == {}


@pytest.mark.parametrize("case", ANSWERS)
def test_an_answer_that_is_cut_off_is_no_answer(case: str) -> None:
    """However the end of an answer is lost, the auditor says that it cannot tell, and judges no part of it."""
    with answering(ANSWERS[case]) as database, pytest.raises(StoreError, match=r"^InfluxDB"):
        database.stored_times("R101", 0)
