"""Makes a loop of this process really stick, from outside the product: STUCK=<where>:<how> in the environment.

Where: `take` (an agent's n-th record: `take@5`), `wait` (the same, but the loop goes on and only the record waits),
`recovery`, `revoked` (a rebalance hangs on this process), `mqtt`, `opcua`, `kafka` (the Kafka thread's callback),
`tend` (the thread beside it).
How: `sleep` (time.sleep in the loop), `busy` (a C function that keeps the interpreter's lock), `dead` (SystemExit).
A file named by STUCK_UNTIL must not exist, else nothing sticks: the process started next works.
"""

import asyncio
import itertools
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from runtime.metrics import READINGS


def stick(how: str) -> None:
    """Do not come back."""
    _mark()
    if how == "dead":
        raise SystemExit("the thread ends")
    while how == "sleep":
        time.sleep(3600)
    sum(itertools.repeat(0))  # for ever, in C, with the lock of the interpreter


def patch() -> None:
    """Do what STUCK asks for."""
    where, _, how = os.environ.get("STUCK", "").partition(":")
    if not where or Path(os.environ["STUCK_UNTIL"]).exists():
        return
    where, _, nth = where.partition("@")
    {
        "take": lambda: _agent(int(nth), lambda: stick(how)),
        "wait": lambda: _agent(int(nth), None),
        "recovery": _recovery,
        "revoked": _revoked,
        "mqtt": lambda: _mqtt(how),
        "opcua": lambda: _opcua(how),
        "kafka": lambda: _kafka(how),
        "tend": lambda: _tend(how),
    }[where]()


def _mark() -> None:
    Path(os.environ["STUCK_UNTIL"]).touch()


async def _for_ever(*_: Any) -> None:
    _mark()
    await asyncio.Event().wait()


def _agent(nth: int, act: Callable[[], None] | None) -> None:
    from agents.fold import Fold

    real, taken = Fold.take, itertools.count(1)

    async def take(self: Fold, *record: Any) -> None:
        if next(taken) == nth:
            if act is None:
                await _for_ever()
            else:
                act()
        await real(self, *record)

    Fold.take = take  # type: ignore[method-assign]


def _recovery() -> None:
    from agents.stage import StageWorker

    StageWorker.assigned = _for_ever  # type: ignore[method-assign,assignment]


def _revoked() -> None:
    from agents.ownership import Ownership

    real = Ownership.end

    async def end(self: Ownership) -> None:
        if self.assigned:
            await _for_ever()
        await real(self)

    Ownership.end = end  # type: ignore[method-assign]


def _mqtt(how: str) -> None:
    from connectors.mqtt import Connector

    real, passed = Connector._understand, itertools.count(1)

    def understand(self: Connector, message: Any) -> Any:
        if next(passed) == 20:
            stick(how)
        return real(self, message)

    Connector._understand = understand  # type: ignore[method-assign]


def _opcua(how: str) -> None:
    from connectors.opcua_intake import Intake

    real, seen = Intake.take, 0

    async def take(self: Intake, values: Any, *more: Any) -> None:
        nonlocal seen
        seen += len(values)
        if seen > 10:  # beyond the first values: what changes, in however many notifications
            stick(how)
        await real(self, values, *more)

    Intake.take = take  # type: ignore[method-assign]


def _kafka(how: str) -> None:
    from connectors.producer import Client

    real, passed = Client._report, itertools.count(1)

    def report(self: Client, *what: Any) -> None:
        if next(passed) == 3:
            stick(how)
        real(self, *what)

    Client._report = report  # type: ignore[method-assign]


def _tend(how: str) -> None:
    from connectors.delivery import Delivery

    real = Delivery._renew

    def renew(self: Delivery) -> None:
        if READINGS._value.get() >= 3:  # not before the field sends, like the others
            stick(how)
        real(self)

    Delivery._renew = renew  # type: ignore[method-assign]


if __name__ == "__main__":
    """usage: python -m tests.runtime.stuck agent ARGUMENTS… | mqtt CONFIG ID | opcua CONFIG ID"""
    patch()
    kind, *arguments = sys.argv[1:]
    if kind == "agent":
        from tests.agents.stage_worker import main

        sys.argv = [sys.argv[0], *arguments]
        sys.exit(main())
    from importlib import import_module

    from runtime import logs, probes
    from runtime.load import load

    logs.configure(arguments[1])
    probes.serve(arguments[1])
    sys.exit(import_module(f"connectors.{kind}").run(load(Path(arguments[0])), arguments[1]))
