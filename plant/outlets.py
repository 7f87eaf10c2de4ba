"""The two ways out of the plant, each a process of its own: it gets batches of samples through a pipe and sends them.

A full pipe holds up the sender: that is all the flow control there is between the processes. Knows which process does
what, nothing of physics or faults.
"""

import asyncio
import multiprocessing
import os
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING

from plant.journal import Journal
from plant.samples import Sample

if TYPE_CHECKING:  # each process loads the library of its own protocol only
    from plant.mqtt_devices import Devices

START_TIMEOUT_S = 60.0
DRAIN_TIMEOUT_S = 60.0


class OutletError(RuntimeError):
    """The process behind an outlet could not do its work; the message says why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a process did.

    `confirmed`: messages the broker took over, or values written that subscribers acknowledged. `unheard`: messages
    nobody had subscribed to. `overruns`: values written although a queue was full. `drained`: everything was
    acknowledged before the process ended. `cpu_s`: processor time since it was ready.
    """

    confirmed: int = 0
    unheard: int = 0
    overruns: int = 0
    subscribed: bool = True
    drained: bool = True
    cpu_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttSettings:
    """Where the devices send to. `window`: most messages in flight per asset; None: as many as come."""

    host: str
    port: int
    journal: Path | None
    assets: tuple[str, ...]
    window: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OpcuaSettings:
    """Where the server listens, the first sample of every node, and how long it waits.

    `subscribers_s`: for subscriptions to all nodes before anything else is written; `linger_s`: at the end, for
    acknowledgements; `patience_s`: for room in a subscriber's queue.
    """

    url: str
    journal: Path | None
    first: tuple[Sample, ...]
    subscribers_s: float
    linger_s: float
    patience_s: float
    certificate_dir: Path | None = None


class Outlet:
    """A running process of either kind."""

    def __init__(self, settings: MqttSettings | OpcuaSettings) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        target = _mqtt_process if isinstance(settings, MqttSettings) else _opcua_process
        self._process = context.Process(target=target, args=(settings, theirs), name=f"plant {target.__name__}")
        self._process.start()
        theirs.close()

    def wait_until(self, step: str, timeout_s: float = START_TIMEOUT_S) -> None:
        """Wait until the process has reached a step. Raises OutletError."""
        if not self._pipe.poll(timeout_s):
            raise OutletError(f"{self._process.name} is not {step} after {timeout_s:.0f} s")
        answer = self._receive()
        if answer != step:
            raise OutletError(f"{self._process.name}: {answer}")

    def send(self, samples: Sequence[Sample]) -> None:
        """Hand a batch over. Raises OutletError when the process has ended."""
        if not samples:
            return
        try:
            self._pipe.send(samples)
        except OSError as error:
            raise OutletError(f"{self._process.name}: {self._receive()}") from error

    def finish(self, timeout_s: float) -> Report:
        """Let the process send the rest, drain and end. Raises OutletError when it did not."""
        self._pipe.send(None)
        if not self._pipe.poll(timeout_s + DRAIN_TIMEOUT_S):
            raise OutletError(f"{self._process.name} does not end")
        report = self._receive()
        self._process.join(START_TIMEOUT_S)
        if not isinstance(report, Report):
            raise OutletError(f"{self._process.name}: {report}")
        return report

    def close(self) -> None:
        """End the process at once, if it still runs."""
        self._pipe.close()
        self._process.join(1.0)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()

    def _receive(self) -> object:
        try:
            answer: object = self._pipe.recv()
        except (EOFError, OSError):
            answer = "ended without a word"
        return answer


def _mqtt_process(settings: MqttSettings, pipe: Connection) -> None:
    _leave_signals_to_the_parent()
    from plant.mqtt_devices import Devices

    try:
        with Journal(settings.journal) as journal:
            devices = Devices(settings.host, settings.port, journal, settings.window)
            devices.connect(settings.assets)
            pipe.send("ready")
            ready_s = time.process_time()
            while (batch := _next(devices, pipe)) is not None:
                devices.publish(batch)
            devices.drain(DRAIN_TIMEOUT_S)
        pipe.send(
            Report(
                confirmed=devices.confirmed,
                unheard=devices.unheard,
                cpu_s=time.process_time() - ready_s,
            )
        )
    except EOFError:
        os._exit(1)  # the parent is gone, nobody is left to tell
    except (OSError, ValueError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _next(devices: "Devices", pipe: Connection) -> Sequence[Sample] | None:
    while not devices.poll(1.0, pipe):
        pass
    batch: Sequence[Sample] | None = pipe.recv()
    return batch


def _opcua_process(settings: OpcuaSettings, pipe: Connection) -> None:
    _leave_signals_to_the_parent()
    try:
        pipe.send(asyncio.run(_serve(settings, pipe)))
    except EOFError:
        os._exit(1)
    except (OSError, ValueError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


async def _serve(settings: OpcuaSettings, pipe: Connection) -> Report:
    from plant.opcua_server import PlantServer

    with Journal(settings.journal) as journal:
        server = PlantServer(settings.url, journal, settings.certificate_dir, settings.patience_s)
        await server.start(settings.first)
        try:
            pipe.send("listening")
            subscribed = await server.wait_for_subscribers(settings.subscribers_s)
            pipe.send("ready")
            ready_s = time.process_time()
            while (batch := await _receive(pipe)) is not None:
                await server.write(batch)
            drained = await server.drain(settings.linger_s)
        finally:
            await server.stop()
    return Report(
        confirmed=server.written if subscribed and drained else 0,
        overruns=server.overruns,
        subscribed=subscribed,
        drained=drained,
        cpu_s=time.process_time() - ready_s,
    )


async def _receive(pipe: Connection) -> Sequence[Sample] | None:
    loop = asyncio.get_running_loop()
    readable = asyncio.Event()
    loop.add_reader(pipe.fileno(), readable.set)
    try:
        await readable.wait()
    finally:
        loop.remove_reader(pipe.fileno())
    batch: Sequence[Sample] | None = pipe.recv()
    return batch


def _leave_signals_to_the_parent() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
