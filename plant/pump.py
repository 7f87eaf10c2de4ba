"""Moves samples from a source to the outlets at the times they are due, and adds up what was sent.

Everything that leaves the plant, simulated, played or generated as load, goes this way. Knows no physics.
"""

import contextlib
import queue
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

from plant.journal import Journal
from plant.outlets import START_TIMEOUT_S, MqttSettings, OpcuaSettings, Outlet, Report
from plant.samples import Protocol, Sample
from plant.sensors import Truth


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """Samples that are due at once. `due_ns`: ns since 1970, None as soon as the outlets take them.

    `events` go to the journal; `truths` is the state of the reactors by asset, where there are reactors.
    """

    due_ns: int | None
    samples: Sequence[Sample]
    events: Sequence[dict[str, Any]] = ()
    truths: Mapping[str, Truth] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What a run sent. Counts of readings, unless said otherwise.

    `sent` by protocol, without what was sent on purpose a second time (`repeated`) or was never a reading (`garbage`,
    messages); `confirmed` by protocol: taken over by the broker (all messages), acknowledged by OPC UA subscribers.
    `by_fault`: readings sent with each kind of fault; `episodes`: faults that happened, by kind.
    `unheard`: MQTT messages nobody had subscribed to. `overruns`: OPC UA values written although a subscriber's queue
    was full. `subscribed`, `drained`: OPC UA subscribers were there at the start, and had acknowledged all at the end.
    `cpu_s`: processor time of the calling process and of both outlets between start and end, in s.
    """

    seconds: float
    sent: dict[str, int]
    confirmed: dict[str, int]
    repeated: int
    garbage: int
    by_fault: dict[str, int]
    episodes: dict[str, int]
    unheard: int
    overruns: int
    subscribed: bool
    drained: bool
    cpu_s: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """The same, ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """Where the plant is connected to, and how patient it is.

    `mqtt` host and port, None: no devices. `opcua_url`, None: no server. `window`: most MQTT messages in flight per
    asset. `subscribers_s`: how long to wait for OPC UA subscriptions to all nodes before the run starts. `linger_s`:
    how long the server stays up at the end for acknowledgements, and for `stop_when` to be true where it is given.
    `patience_s`: how long an OPC UA value waits for room in a subscriber's queue before it is written all the same.
    """

    mqtt: tuple[str, int] | None
    opcua_url: str | None
    journal: Path | None = None
    window: int | None = None
    subscribers_s: float = 30.0
    linger_s: float = 5.0
    patience_s: float = 10.0
    certificate_dir: Path | None = None
    stop_when: Callable[[], bool] | None = None
    stop: threading.Event = field(default_factory=threading.Event)


Source = Callable[[int], Iterable[Tick]]  # start in ns since 1970 → what happens


def pump(
    source: Source,
    first: Sequence[Sample],
    assets: Sequence[str],
    outside: Outside,
    last: Callable[[], Tick] | None = None,
) -> Summary:
    """Run a source to its end, or until SIGTERM, SIGINT or `outside.stop`; then send `last`, if there is such.

    `first` are the samples OPC UA nodes start with; `assets` those that have MQTT devices. Raises OutletError.
    """
    with (
        Journal(outside.journal, create=True) as journal,
        _stopped_by_signals(outside.stop),
        _outlets(first, assets, outside) as outlets,
    ):
        started, used_s = time.time_ns(), time.process_time()
        totals = _Totals()
        totals.add(first if "opcua" in outlets else ())
        for tick in source(started):
            if tick.due_ns is not None and outside.stop.wait(max(0.0, (tick.due_ns - time.time_ns()) / 1e9)):
                break
            if outside.stop.is_set():
                break
            _send(tick, outlets, journal, totals)
        if last is not None:
            _send(last(), outlets, journal, totals)
        _wait_for(outside)
        seconds = (time.time_ns() - started) / 1e9
        reports = {protocol: outlet.finish(outside.linger_s) for protocol, outlet in outlets.items()}
    return totals.summary(seconds, time.process_time() - used_s, reports)


def _send(tick: Tick, outlets: Mapping[Protocol, Outlet], journal: Journal, totals: "_Totals") -> None:
    totals.add(tick.samples, tick.events)
    for event in tick.events:
        journal.event(event)
    journal.flush()
    for protocol, outlet in outlets.items():
        outlet.send([s for s in tick.samples if s.protocol == protocol])


def _wait_for(outside: Outside) -> None:
    deadline = time.monotonic() + outside.linger_s
    while outside.stop_when is not None and time.monotonic() < deadline and not outside.stop_when():
        time.sleep(0.1)


@contextlib.contextmanager
def _outlets(first: Sequence[Sample], assets: Sequence[str], outside: Outside) -> Iterator[dict[Protocol, Outlet]]:
    outlets: dict[Protocol, Outlet] = {}
    try:
        if outside.mqtt is not None:
            host, port = outside.mqtt
            outlets["mqtt"] = Outlet(
                MqttSettings(host=host, port=port, journal=outside.journal, assets=tuple(assets), window=outside.window)
            )
        if outside.opcua_url is not None:
            outlets["opcua"] = Outlet(
                OpcuaSettings(
                    url=outside.opcua_url,
                    journal=outside.journal,
                    first=tuple(first),
                    subscribers_s=outside.subscribers_s,
                    linger_s=outside.linger_s,
                    patience_s=outside.patience_s,
                    certificate_dir=outside.certificate_dir,
                )
            )
        if "mqtt" in outlets:
            outlets["mqtt"].wait_until("ready")
        if "opcua" in outlets:
            outlets["opcua"].wait_until("listening")
            outlets["opcua"].wait_until("ready", START_TIMEOUT_S + outside.subscribers_s)
        yield outlets
    finally:
        for outlet in outlets.values():
            outlet.close()


@contextlib.contextmanager
def _stopped_by_signals(stop: threading.Event) -> Iterator[None]:
    """SIGTERM and SIGINT set `stop`, where this thread may say what signals do."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    # Not set in the handler: it may interrupt `stop.wait` where that holds the lock of the event, and `set` would wait
    # for it for ever. `SimpleQueue.put` is made for handlers.
    told: queue.SimpleQueue[bool] = queue.SimpleQueue()

    def relay() -> None:
        if told.get():
            stop.set()

    thread = threading.Thread(target=relay, name="signals", daemon=True)
    thread.start()

    def tell(_number: int, _frame: FrameType | None) -> None:
        told.put(True)

    before = {number: signal.signal(number, tell) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        told.put(False)
        thread.join()


@dataclass(slots=True)
class _Totals:
    """Counts of what was handed to the outlets."""

    sent: Counter[str] = field(default_factory=Counter)
    by_fault: Counter[str] = field(default_factory=Counter)
    episodes: Counter[str] = field(default_factory=Counter)
    repeated: int = 0
    garbage: int = 0

    def add(self, samples: Iterable[Sample], events: Iterable[dict[str, Any]] = ()) -> None:
        """Count samples and the ends of faults."""
        for sample in samples:
            if sample.garbage is not None:
                self.garbage += 1
            elif sample.repeat:
                self.repeated += 1
            else:
                self.sent[sample.protocol] += 1
                if sample.fault is not None:
                    self.by_fault[sample.fault] += 1
        for event in events:
            if "kind" in event:
                self.episodes[event["kind"]] += 1

    def summary(self, seconds: float, cpu_s: float, reports: Mapping[Protocol, Report]) -> Summary:
        """The totals together with what the processes report."""
        opcua = reports.get("opcua", Report())
        return Summary(
            seconds=seconds,
            sent=dict(self.sent),
            confirmed={protocol: report.confirmed for protocol, report in reports.items()},
            repeated=self.repeated,
            garbage=self.garbage,
            by_fault=dict(self.by_fault),
            episodes=dict(self.episodes),
            unheard=reports.get("mqtt", Report()).unheard,
            overruns=opcua.overruns,
            subscribed=opcua.subscribed,
            drained=opcua.drained,
            cpu_s={"plant": cpu_s, **{p: r.cpu_s for p, r in reports.items()}},
        )
