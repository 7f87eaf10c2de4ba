"""The client of InfluxDB's InfluxQL end point against answers that go wrong, without a database."""

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from queries.influxql import InfluxQL, QueryError
from runtime.config import Influxdb

LAST = b"name,tags,name\ndatabases,,plant\n"
ROWS = b"name,tags,time,value\nm,,1,1.5\nm,,2,2.5\n"
TABLES = ROWS + b"\n" + LAST
OK = b"HTTP/1.1 200 OK\r\n\r\n"
WHOLE = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(TABLES) + TABLES


@pytest.fixture(autouse=True)
def token(monkeypatch: pytest.MonkeyPatch) -> None:
    """A token, which these servers do not look at."""
    monkeypatch.setenv("INFLUX_TOKEN", "any")


@contextmanager
def answering(answer: bytes) -> Iterator[InfluxQL]:
    """A client of a server that answers each question with these bytes and closes the connection."""

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            length = 0
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                if line.lower().startswith(b"content-length:"):
                    length = int(line.split(b":")[1])
            self.rfile.read(length)
            self.wfile.write(answer)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        client = InfluxQL(Influxdb(url=f"http://127.0.0.1:{server.server_address[1]}"), 10.0)
        try:
            yield client
        finally:
            client.close()
            server.shutdown()


def ask(client: InfluxQL) -> list[float]:
    """The values of an answer."""
    return client.select("q", {}, {"value": "float"})["value"].to_list()


def test_a_whole_answer_has_its_rows() -> None:
    """The server of these tests is understood."""
    with answering(WHOLE) as client:
        assert ask(client) == [1.5, 2.5]


@pytest.mark.parametrize(
    "cut",
    [
        WHOLE[:-8],
        WHOLE[: -len(b"m,,2,2.5\n\n" + LAST)],
        WHOLE[: -len(TABLES)],
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n" % (len(TABLES), TABLES),
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b" % (len(TABLES) + 9, TABLES),
        b'HTTP/1.1 503 Service Unavailable\r\nContent-Length: 99\r\n\r\n{"message": "sh',
        b"nonsense\r\n\r\n",
        b"",
    ],
    ids=["length", "a row less", "no body", "chunked", "chunk", "error", "no http", "nothing"],
)
def test_an_answer_that_is_cut_off_is_no_answer(cut: bytes) -> None:
    """InfluxDB that dies while it answers gives an error, never some of the rows."""
    with answering(cut) as client, pytest.raises(QueryError, match="does not answer"):
        ask(client)


@pytest.mark.parametrize(
    "tables",
    [ROWS, ROWS + b"\n", b"", b'name,tags,text\nm,,"a\n\n' + LAST + b'"\n'],
    ids=["rows", "between", "nothing", "a text that looks like the end"],
)
def test_a_statement_that_fails_while_it_gives_rows_is_no_answer(tables: bytes) -> None:
    """Rows, or none, without the table of the statement that follows are an error, whatever their texts contain."""
    with answering(OK + tables) as client, pytest.raises(QueryError, match="the answer has no end"):
        client.texts("q", {})


@pytest.mark.parametrize("text", [b"a", b'""', b"name,tags,name\n", b"a\n\n" + LAST, b'""\n\n' + LAST])
def test_any_text_of_a_field_is_data(text: bytes) -> None:
    """A text that looks like the end of an answer, or has quotes, is given as it is."""
    rows = b'name,tags,text\nm,,"' + text + b'"\n'
    with answering(OK + rows + b"\n" + LAST) as client:
        assert client.texts("q", {})[0]["text"] == text.replace(b'""', b'"').decode()


def test_an_answer_without_rows_or_databases_is_one() -> None:
    """No rows, asked with a token that may read no database, is an empty table."""
    with answering(OK + b"name,tags,name\n") as client:
        assert ask(client) == []


def test_a_field_called_error_is_none() -> None:
    """A field called `error` is a field."""
    with answering(OK + b"name,tags,time,value,error\nm,,1,1.5,0.25\n\n" + LAST) as client:
        assert client.texts("q", {})[0]["error"] == "0.25"
