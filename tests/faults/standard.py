"""What most rows do: start everything, let readings flow, strike, let it drain, check every reading."""

from collections.abc import Callable

from services.stack import Stack
from tests.faults.rig import Rig
from tests.faults.system import DEFAULT_LOAD, Load, System, Table, running

Strike = Callable[[Rig, System], None]


def under_load(
    rig: Rig, strike: Strike, *, settings: Table | None = None, load: Load | None = DEFAULT_LOAD, told: bool = False
) -> None:
    """Run a row: `strike` while `load` flows through a system of its own. `told`: see `System.finish`."""
    with Stack(rig.folder / "services") as stack, running(rig, stack, settings, load) as system:
        strike(rig, system)
        system.finish(told=told)
