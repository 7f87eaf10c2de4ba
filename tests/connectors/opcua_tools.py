"""What the OPC UA tests share: the server's and the connector's process, and the raw topic as read back."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from confluent_kafka import Consumer, TopicPartition

from runtime.config import Kafka
from runtime.kafka import create_topics
from schemas.codec import decode_as
from schemas.frames import Frame
from schemas.topics import RAW

ROOT = Path(__file__).parents[2]
PARTITIONS = 4
PROGRAM = """
import sys
from pathlib import Path
from connectors.opcua import run
from runtime import logs, probes
from runtime.load import load
logs.configure("ua")
probes.serve("ua")
sys.exit(run(load(Path(sys.argv[1])), "ua"))
"""


def free_port() -> int:
    """A port nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], timeout_s: float, what: str) -> Any:
    """Wait for a condition and return what it gave; AssertionError after the time."""
    end_s = time.monotonic() + timeout_s
    while time.monotonic() < end_s:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError(f"not within {timeout_s} s: {what}")


class ServerProcess:
    """The test server; `settings` as in opcua_server.Settings."""

    program = "tests.connectors.opcua_server"

    def __init__(self, **settings: Any) -> None:
        self.settings = {"port": free_port(), **settings}
        self.url = f"opc.tcp://127.0.0.1:{self.settings['port']}/"
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", self.program, json.dumps(self.settings)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", "the test server did not start"
        return process

    def do(self, what: str, **arguments: Any) -> None:
        """Have a command done."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps({"do": what, **arguments}) + "\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline() == "done\n", f"the test server failed at {what}"

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def restart(self, **changes: Any) -> None:
        """Start again, with other settings."""
        self.settings |= changes
        self.process = self._start()


class ConnectorProcess:
    """The connector as `twin connector opcua` runs it, with its log."""

    def __init__(self, config: Path, log: Path) -> None:
        self.config, self.log = config, log
        self.process = self._start()

    def _start(self) -> "subprocess.Popen[bytes]":
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(self.config)], stderr=log, stdout=log, cwd=ROOT, env=os.environ
            )  # fmt: skip

    def says(self, text: str, timeout_s: float = 15.0, times: int = 1) -> None:
        """Wait until the log has this text (so many times)."""
        until(lambda: self.log.read_text().count(text) >= times, timeout_s, f"{text!r} in the log:\n{self.tail()}")

    def tail(self) -> str:
        """The log's end."""
        return self.log.read_text()[-3000:]

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait()

    def restart(self) -> None:
        """Start again."""
        self.process = self._start()

    def stop(self) -> int:
        """SIGTERM, and the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


class Bench:
    """A prefix of its own in Kafka, a directory, and whatever processes a test starts, all ended afterwards."""

    def __init__(self, bootstrap: str, directory: Path) -> None:
        self.kafka = Kafka(bootstrap=bootstrap, prefix=f"ua-{uuid.uuid4().hex[:8]}", partitions=PARTITIONS)
        self.directory = directory
        self._ours: list[ServerProcess | ConnectorProcess] = []
        create_topics(self.kafka)
        self.raw = Raw(self.kafka)

    def server(self, **settings: Any) -> ServerProcess:
        """Start a server."""
        self._ours.append(server := ServerProcess(**settings))
        return server

    def connector(self, server: ServerProcess, opcua: str = "", more: str = "") -> ConnectorProcess:
        """Start a connector. `opcua`: further keys of [[opcua]]; `more`: further tables."""
        path = self.write_config(server, opcua, more)
        self._ours.append(connector := ConnectorProcess(path, self.directory / "connector.log"))
        return connector

    def write_config(self, server: ServerProcess, opcua: str = "", more: str = "") -> Path:
        """Write the configuration of a connector."""
        secure = "" if server.settings.get("certificate") else 'security = "None"\nmode = "None"\n'
        path = self.directory / "plant.toml"
        path.write_text(
            f'[kafka]\nbootstrap = "{self.kafka.bootstrap}"\nprefix = "{self.kafka.prefix}"\n'
            f'partitions = {PARTITIONS}\n[[opcua]]\nid = "ua"\nurl = "{server.url}"\n{secure}'
            f'certificate_dir = "{self.directory}/certificates"\nstate_dir = "{self.directory}/state"\n'
            f"{opcua}\n{more}\n"
        )
        return path

    def close(self) -> None:
        """End what was started, by its process."""
        self.raw.close()
        logs = [c.tail() for c in self._ours if isinstance(c, ConnectorProcess)]
        print(*logs, sep="\n", file=sys.stderr)  # pytest shows it where a test fails
        for process in self._ours:
            if process.process.poll() is None:
                process.kill()


@contextmanager
def bench(bootstrap: str, directory: Path) -> Iterator[Bench]:
    """A Bench that is closed afterwards."""
    made = Bench(bootstrap, directory)
    try:
        yield made
    finally:
        made.close()


class Raw:
    """Everything in the raw topic, read by a thread, in order per asset."""

    def __init__(self, kafka: Kafka) -> None:
        self.frames: list[Frame] = []
        self._consumer = Consumer({"bootstrap.servers": kafka.address, "group.id": "none", "enable.auto.commit": False})
        self._consumer.assign([TopicPartition(RAW.full_name(kafka.prefix), p, 0) for p in range(PARTITIONS)])
        self._stopping = False
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        while not self._stopping:
            message = self._consumer.poll(0.1)
            if message is not None and message.error() is None:
                self.frames.append(decode_as(message.value(), Frame))

    def close(self) -> None:
        """Stop reading."""
        self._stopping = True
        self._thread.join()
        self._consumer.close()

    def readings(self) -> dict[str, list[tuple[int, float, int, str | None]]]:
        """Per `asset/tag`: (source time, value, status, text) in the order of the topic."""
        found: dict[str, list[tuple[int, float, int, str | None]]] = defaultdict(list)
        for frame in tuple(self.frames):
            for i in range(len(frame)):
                name = f"{frame.asset}/{frame.tags[frame.tag[i]]}"
                row = int(frame.source_time_ns[i]), float(frame.value[i]), int(frame.status[i]), frame.texts.get(i)
                found[name].append(row)
        return found

    def gaps(self) -> list[Frame]:
        """All gap frames."""
        return [frame for frame in tuple(self.frames) if frame.gap is not None]

    def count(self) -> int:
        """All readings so far, repetitions too."""
        return sum(len(frame) for frame in tuple(self.frames))
