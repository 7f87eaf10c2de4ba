"""The proxy does what it is told, or rows that go through it prove nothing."""

import socket
import time

import pytest

from tests.faults.proxy import TcpProxy, tcp_proxy


@pytest.fixture
def echo() -> socket.socket:
    """A listener."""
    return socket.create_server(("127.0.0.1", 0))


def _pair(proxy: TcpProxy, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    host, port = proxy.address.split(":")
    near = socket.create_connection((host, int(port)), timeout=10)
    far, _ = listener.accept()
    far.settimeout(10)
    return near, far


def test_bytes_pass_unchanged_in_both_directions(echo: socket.socket) -> None:
    """Told nothing, the proxy is a piece of wire."""
    with tcp_proxy(echo.getsockname()) as proxy:
        near, far = _pair(proxy, echo)
        near.sendall(b"question")
        assert far.recv(100) == b"question"
        far.sendall(b"answer" * 100_000)
        got = b""
        while len(got) < 600_000:
            got += near.recv(65536)
        assert got == b"answer" * 100_000
        assert proxy.delayed == proxy.resets == 0


def test_answers_come_late(echo: socket.socket) -> None:
    """Questions pass at once, answers after the delay."""
    with tcp_proxy(echo.getsockname()) as proxy:
        near, far = _pair(proxy, echo)
        proxy.delay_s = 0.3
        near.sendall(b"question")
        assert far.recv(100) == b"question"
        began = time.monotonic()
        far.sendall(b"answer")
        assert near.recv(100) == b"answer"
        assert time.monotonic() - began >= 0.3
        assert proxy.delayed == 1


def test_connections_break(echo: socket.socket) -> None:
    """With a share of 1 the first chunk resets the connection, on both sides."""
    with tcp_proxy(echo.getsockname()) as proxy:
        near, far = _pair(proxy, echo)
        proxy.reset_share = 1.0
        near.sendall(b"question")
        for side in (near, far):
            with pytest.raises(ConnectionResetError):
                side.recv(100)
        assert proxy.resets == 1
