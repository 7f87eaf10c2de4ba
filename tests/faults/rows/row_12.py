"""Row 12: a topic of the running system is given more partitions; everybody refuses, and the remedy is exact."""

import tomlkit
from confluent_kafka.admin import AdminClient, NewPartitions

from cli.processes import processes, topics_command
from runtime.exit_codes import BAD_CONFIGURATION
from runtime.kafka import client_settings
from runtime.load import load
from runtime.partitions import home_partition
from schemas.topics import ESTIMATES, RAW, VALIDATED
from services import supervisor
from tests.agents.kill_audit import records
from tests.faults.pulse import Pulse
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import CONNECTORS, Load, System

TITLE = "partition count changed under a running system"
STAGES = ("validation", "estimation", "twin", "sink")
#: Each looks every 5 s; some leave because of a rebalance first, and refuse when they are started again.
REFUSED_S = 120.0
#: By MQTT only: the broker holds what comes while everybody refuses. An OPC UA server's queues hold a few seconds.
LOAD = Load(opcua_share=0.0)


def run(rig: Rig) -> None:
    """Alter a topic, see everybody refuse, follow the remedy with yet another number of partitions."""
    under_load(rig, strike, load=LOAD)


def strike(rig: Rig, system: System) -> None:
    """One topic, chosen by the seed."""
    old = system.plant.kafka
    topic = rig.rng.choice((RAW, VALIDATED, ESTIMATES)).full_name(old.prefix)
    admin = AdminClient(client_settings(old))
    admin.create_partitions([NewPartitions(topic, 2 * old.partitions)])[topic].result(30)
    rig.wait_for(
        lambda: len(admin.list_topics(timeout=10).topics[topic].partitions) == 2 * old.partitions, "altered", 30
    )
    rig.struck()
    rig.note("altered", topic)
    names = (*STAGES, *CONNECTORS)
    took_s = rig.wait_for(
        lambda: all(system.state(name).state == "failed" for name in names), "everybody refuses", REFUSED_S
    )
    rig.note("refused_after_s", round(took_s, 1))
    for name in names:
        rig.require(system.state(name).last_exit_code == BAD_CONFIGURATION, f"{name} ends with 78")
        said = f"{topic} has {2 * old.partitions} partitions"
        rig.require(said in system.log(name), f"{name} says what is wrong")
        rig.require(f"`twin topics move {old.prefix}`" in system.log(name), f"{name} says what to do")
    wide = old.model_copy(update={"partitions": 2 * old.partitions})
    if topic == RAW.full_name(old.prefix):
        misplaced = sum(home_partition(key, old.partitions) != p for p, key, _ in records(wide, topic))
        rig.require(not misplaced, f"{misplaced} frames are in a wrong partition")
    _remedy(rig, system)


def _remedy(rig: Rig, system: System) -> None:
    """What the message says: stop, another prefix and number, move, start."""
    old = system.plant.kafka
    supervisor.down(system.run_dir)
    text = tomlkit.parse(system.config.read_text())
    text["kafka"]["prefix"], text["kafka"]["partitions"] = f"{old.prefix}-2", old.partitions + 2  # type: ignore[index]
    system.config.write_text(tomlkit.dumps(text))
    said: list[str] = []

    def moved() -> bool:
        done = system.twin("topics", "move", old.prefix)
        said.append(done.stdout + done.stderr)
        return done.returncode == 0

    rig.wait_for(moved, "carried over", 120)  # the groups' sessions may have to time out
    rig.require("still works" in said[0] or len(said) == 1, f"refused for no other reason: {said[0]}")
    system.plant = load(system.config)
    supervisor.up(
        system.config, system.run_dir, processes(system.plant, system.run_dir), system.env, init=(topics_command(),)
    )
    before, system._pulse = system.pulse, Pulse(system.plant.kafka)
    before.close()
    system.wait_flowing(120)
