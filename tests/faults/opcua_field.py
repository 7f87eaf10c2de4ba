"""An OPC UA server with a generator and a journal, in a process of its own, that does what rows tell it on stdin.

python -m tests.faults.opcua_field '{"port": 4840, "journal": "journal.jsonl", "rate_hz": 5.0, "seed": 1}'
"""

import asyncio
import json
import logging
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from asyncua import ua
from asyncua.server.internal_subscription import InternalSubscription

from plant.journal import Journal, read
from plant.opcua_server import republish
from plant.samples import Sample
from schemas.topics import RAW
from tests.connectors.opcua_server import Plant, Settings, main
from tests.connectors.opcua_tools import ServerProcess
from tests.faults.rig import Rig
from tests.faults.system import OPCUA, System

#: The asset whose node is taken away: the connector says of it what nobody sent, so it is in no journal.
FLEETING = "R0"
UNCERTAIN = (ua.StatusCodes.Uncertain, ua.StatusCodes.UncertainLastUsableValue, ua.StatusCodes.UncertainSubNormal)
BAD = (ua.StatusCodes.Bad, ua.StatusCodes.BadDeviceFailure, ua.StatusCodes.BadSensorFailure)
OTHER_SHARE = 0.1  # of readings that are Uncertain, and that are Bad
PATIENCE_S = 60.0


@dataclass(frozen=True, kw_only=True)
class FieldSettings(Settings):
    """The server's settings, and what it sends."""

    journal: str
    rate_hz: float = 5.0
    seed: int = 1
    waits: bool = False  # until it is told to begin: nobody can tell what was before the first subscription


class Field(Plant):
    """Every variable changes at `rate_hz`, journaled first; status Good, Uncertain or Bad by chance."""

    def __init__(self, settings: FieldSettings) -> None:
        super().__init__(settings)
        InternalSubscription.republish = republish
        self._waits = settings.waits
        self._period_s = 1.0 / settings.rate_hz
        self._journal = Journal(Path(settings.journal))
        self._chance = random.Random(f"{settings.seed}/{time.time_ns()}")
        self._there: set[str] = set()
        self._sending: asyncio.Task[None] | None = None
        self._ending = False

    async def add(self, name: str, start: str | float = 0.0, time_ns: int | None = None) -> None:
        """A variable, whose first value is journaled like all others."""
        value, at_ns, _ = self._next(name, good=True)
        await super().add(name, value, at_ns)
        self._there.add(name)

    async def delete(self, name: str) -> None:
        """Remove a variable."""
        self._there.discard(name)
        await super().delete(name)

    async def start(self) -> None:
        """Listen, and send."""
        await super().start()
        if not self._waits:
            await self.begin()

    async def begin(self) -> None:
        """Send from now on."""
        self._sending = asyncio.create_task(self._send())

    async def pause(self) -> None:
        """Send no more; what is in the journal has been written then."""
        assert self._sending is not None
        self._ending = True
        await self._sending

    async def _send(self) -> None:
        while not self._ending:
            await asyncio.sleep(self._period_s)
            for name in sorted(self._there):
                if name in self._there:  # it may have been removed meanwhile
                    value, at_ns, status = self._next(name)
                    await self.write(name, value, at_ns, status)

    def _next(self, name: str, good: bool = False) -> tuple[Any, int, int]:
        """Value, time and status of a new reading, noted in the journal."""
        asset, tag = name.split(".")[1:3]
        at_ns = time.time_ns() // 1000 * 1000
        chance = 1.0 if good else self._chance.random()
        status = int(self._chance.choice(UNCERTAIN) if chance < OTHER_SHARE else 0)
        status = int(self._chance.choice(BAD)) if OTHER_SHARE <= chance < 2 * OTHER_SHARE else status
        value = None if status >= ua.StatusCodes.Bad else 50.0 + at_ns // 1000 % 10**10 / 1e10
        if asset != FLEETING:
            sample = Sample(
                asset=asset, tag=tag.lower(), unit=self.settings.unit, protocol="opcua",
                source_time_ns=at_ns, value=value, status=status,
            )  # fmt: skip
            self._journal.reading(sample, time.time_ns())
            self._journal.flush()
        return value, at_ns, status


class FieldProcess(ServerProcess):
    """The server as rows have it: at the address that the system's connector knows."""

    program = "tests.faults.opcua_field"

    def __init__(self, rig: Rig, system: System, **settings: Any) -> None:
        self.journal = system.run_dir / "journal-opcua.jsonl"
        system.journals.append(self.journal)
        port = urlparse(system.env["OPCUA_URL"]).port
        super().__init__(port=port, journal=str(self.journal), seed=rig.outcome.seed, waits=True, **settings)

    def begin(self) -> None:
        """Let it send; from now on it does so when it is started again, too."""
        self.do("begin")
        self.settings["waits"] = False

    def close(self) -> None:
        """End it, if it still lives."""
        if self.process.poll() is None:
            self.kill()

    def finish(self, rig: Rig, system: System) -> None:
        """Send no more, and wait until the last reading of every tag is in Kafka."""
        self.do("pause")
        wanted = {(line["asset"], line["tag"]): line["source_time_ns"] for line in read(self.journal)}

        def arrived() -> bool:
            newest: dict[tuple[str, str], int] = {}
            for frame in system.records(RAW):
                for i, time_ns in enumerate(frame.source_time_ns.tolist()):
                    newest[frame.asset, frame.tags[frame.tag[i]]] = time_ns
            return all(newest.get(name, 0) >= time_ns for name, time_ns in wanted.items())

        rig.wait_for(arrived, "the last reading of every tag is in Kafka", PATIENCE_S)


def subscribed(system: System) -> int:
    """How often the connector has said that it is subscribed."""
    return system.log_matches(OPCUA, "subscribed to|went on with our subscription")


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    asyncio.run(main(Field(FieldSettings(**json.loads(sys.argv[1])))))
