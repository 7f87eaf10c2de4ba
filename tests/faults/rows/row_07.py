"""Row 7: the disk under Kafka's log fills up, so the broker ends; later there is room again."""

import time
from contextlib import ExitStack

from services.stack import Stack
from tests.faults.crossing import Crossing
from tests.faults.rig import Rig
from tests.faults.small_disk import SmallDisk, small_disk
from tests.faults.standard import bounded_memory
from tests.faults.system import CONNECTORS, OPCUA, System, running

TITLE = "Kafka's disk full, then freed"
HALTS_S = 120.0
READY_S = 90.0
#: A process may leave once to begin anew, and once more if it met the disk a second time.
RESTARTS = 2
FLOWS_S = 120.0


def run(rig: Rig) -> None:
    """The broker's folder is a small file system of its own, where this machine lets us have one."""
    stack = Stack(rig.folder / "services")
    with ExitStack() as ends:
        disk = ends.enter_context(small_disk(stack.kafka.directory / "data"))
        rig.note("disk", disk.kind)
        ends.enter_context(stack)
        system = ends.enter_context(running(rig, stack))
        for _ in range(rig.times(full=3, short=1)):
            fill_up(rig, system, disk)
        system.finish()


def fill_up(rig: Rig, system: System, disk: SmallDisk) -> None:
    """Fill the disk until the broker ends, wait, free it, start the broker; everything else is the system's part."""
    kafka = system.stack.kafka
    pids, restarts = system.pids(), {name: system.state(name).restarts for name in system.pids()}
    crossing = Crossing(rig, system)
    with bounded_memory(rig, system):
        disk.fill(kafka.pid)
        rig.wait_for(lambda: kafka.exit_code is not None, "the broker ends for want of room", HALTS_S)
        rig.struck()
        time.sleep(rig.times(full=60, short=8))
        crossing.require_noticed()
        disk.free()
        kafka.start()
        kafka.wait_ready(READY_S)
        back_s = time.time()
        crossing.drained()
        system.wait_flowing(FLOWS_S, since_s=back_s)
    again = {name: system.state(name).restarts - n for name, n in restarts.items()}
    rig.note("started again", {name: n for name, n in again.items() if n})
    rig.require(max(again.values()) <= RESTARTS, f"nothing crashes in a loop: {again}")
    for name in CONNECTORS:
        rig.require(system.pid(name) == pids[name], f"{name} lives on")
    rig.require(
        "No space left on device" in kafka.log.read_text("utf-8", "replace")
        or "File too large" in kafka.log.read_text("utf-8", "replace"),
        "the broker's log names the disk",
    )
    rig.require(system.log_matches(OPCUA, "the disk spool takes over"), "the OPC UA connector spooled")
