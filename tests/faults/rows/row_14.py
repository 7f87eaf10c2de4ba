"""Row 14: everything that the system keeps in local files is damaged, while its processes run and while they do not.

Agents keep no state in files, only compiled loops; their state comes back from the changelog, whatever was lost. The
row says how long that takes per million tags.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from confluent_kafka import Producer
from numba.core.caching import _CacheLocator

import kernels
from agents.settings import kernel_settings
from cli.processes import STAGES
from kernels.stages import STAGES as KERNELS
from runtime.changelog import Row, pack, recover, unpack
from runtime.config import Kafka
from runtime.kafka import client_settings, create_topics
from schemas.frames import Frame
from schemas.topics import CHANGELOGS, app_id
from tests.faults.rig import Rig
from tests.faults.standard import under_load
from tests.faults.system import CONNECTORS, System

TITLE = "local state deleted, truncated, bit-flipped"
PATIENCE_S = 120.0
CRASHES_MAX = 1  # of a process whose file is cut under its hands (SIGBUS), beside our own kill
TAGS, READINGS = 100, 150  # of each asset whose state is read back


def run(rig: Rig) -> None:
    """Nothing is lost or doubled, nothing crashes in a loop."""
    compiled = rig.folder / "compiled"
    for file in Path(kernels.__file__).parent.glob("**/__pycache__/*.nb[ic]"):
        own = compiled / _CacheLocator.get_suitable_cache_subpath(str(file.parents[1] / "source.py"))
        own.mkdir(parents=True, exist_ok=True)
        shutil.copy2(file, own)
    os.environ["NUMBA_CACHE_DIR"] = str(compiled)  # so that the row damages files of its own
    under_load(rig, strike)


def strike(rig: Rig, system: System) -> None:
    """Each kind of damage to files of each connector, running and not; then to compiled loops under all agents."""
    kinds = (delete, cut, flip)
    blows = [(kind, name, runs) for kind in kinds for name in CONNECTORS for runs in (True, False)]
    for kind, name, runs in rig.rng.sample(blows, rig.times(full=len(blows), short=3)):
        damage_memory(rig, system, name, kind, runs)
    for kind in kinds if not rig.short else (rig.rng.choice((cut, flip)),):
        damage_compiled(rig, system, kind)
    rig.note("rebuild_s_per_million_tags", rebuild(rig, system, assets=rig.times(full=400, short=10)))


def damage_memory(rig: Rig, system: System, name: str, kind: Callable[[Path], None], runs: bool) -> None:
    """Damage one of a connector's files of each sort, and let the next process begin with what is left."""

    def kept() -> list[Path]:  # what is just being written is not there yet
        files = sorted((system.run_dir / "state").glob(f"{name}.*"))
        return [f for f in files if ".copy." not in f.name and f.suffix != ".new"]

    rig.wait_for(kept, f"{name} keeps something in files", PATIENCE_S)
    originals = kept()
    restarts = system.state(name).restarts
    began_s = time.time()
    if not runs:
        system.send_signal(name, signal.SIGSTOP)
    for file in originals:
        kind(file)
    rig.struck(len(originals))
    if runs:
        system.wait_flowing(PATIENCE_S, since_s=began_s)
    killed_s = time.time()
    system.kill(name)
    system.wait_flowing(PATIENCE_S, since_s=killed_s)
    more = system.state(name).restarts - restarts
    rig.require(more <= 1 + CRASHES_MAX, f"{name} with files {kind.__name__}: started {more} times")


def damage_compiled(rig: Rig, system: System, kind: Callable[[Path], None]) -> None:
    """Damage some files with compiled loops of every sort, and start all agents anew."""
    files = sorted(Path(os.environ["NUMBA_CACHE_DIR"]).glob("**/*.nb[ic]"))
    for file in rig.rng.sample(files, 6):
        kind(file)
        rig.struck()
    restarts = {stage: system.state(stage).restarts for stage in STAGES}
    killed_s = time.time()
    system.kill(*STAGES)
    system.wait_flowing(PATIENCE_S, since_s=killed_s)
    crashed = [stage for stage in STAGES if system.state(stage).restarts - restarts[stage] > 1]
    rig.require(not crashed, f"{', '.join(crashed)} crashed with compiled loops {kind.__name__}")


def delete(file: Path) -> None:
    """The file is gone."""
    file.unlink(missing_ok=True)


def cut(file: Path) -> None:
    """Only half of it is left."""
    os.truncate(file, file.stat().st_size // 2)


def flip(file: Path) -> None:
    """One bit in the middle is turned over, in place."""
    with file.open("r+b") as opened:
        middle = file.stat().st_size // 2
        opened.seek(middle)
        byte = opened.read(1)[0]
        opened.seek(middle)
        opened.write(bytes([byte ^ 0x10]))


def rebuild(rig: Rig, system: System, assets: int) -> dict[str, float]:
    """Seconds to read the state of a million tags back from each stage's changelog, as a stage does at its start.

    Measured with `assets` × TAGS, whose rows fill the changelog once; few of them tell the fixed cost of a start only.
    """
    rig.note("rebuilt_tags", assets * TAGS)
    kafka = system.plant.kafka.model_copy(update={"prefix": f"{system.plant.kafka.prefix}-rebuild"})
    create_topics(kafka)
    _populate(kafka, _states(system), assets)
    took = {}
    for changelog in CHANGELOGS:
        began = time.monotonic()
        topic, group = changelog.full_name(kafka.prefix), app_id(changelog.name, kafka.prefix)
        found = recover(kafka, topic, range(kafka.partitions), lambda _: None, group)
        states = [unpack(row) for row in found.rows.values()]
        took[changelog.name] = round((time.monotonic() - began) / (assets * TAGS) * 1e6, 1)
        rig.require(len(states) == assets, f"{assets} states come back from {topic}: {len(states)}")
    return took


def _states(system: System) -> dict[str, bytes]:
    """A row of each stage for one asset whose tags have had READINGS each."""
    settings = kernel_settings(system.plant)
    frame: Frame = _frame()
    rows = {}
    for name, entry in KERNELS.items():
        state, frame, _ = entry.stage.step(entry.stage.initial(frame.asset), frame, entry.params_from(settings))
        rows[name] = pack(Row(0, state))
    return rows


def _frame() -> Frame:
    n = TAGS * READINGS
    times = np.repeat(np.arange(READINGS), TAGS) * 1_000_000_000 + 1_761_474_600_000_000_000
    return Frame(
        asset="R", source="rebuild", epoch=1, seq=0, time_ns=int(times[-1]),
        tags=tuple(f"tag_{i}" for i in range(TAGS)), units=("degC",) * TAGS,
        tag=np.tile(np.arange(TAGS), READINGS).astype("<u2"),
        source_time_ns=times.astype("<i8"), server_time_ns=np.zeros(n, "<i8"), arrival_time_ns=times.astype("<i8"),
        value=np.random.default_rng(1).normal(85.0, 0.5, n), status=np.zeros(n, "<u4"), mark=np.zeros(n, "u1"),
    )  # fmt: skip


def _populate(kafka: Kafka, rows: dict[str, bytes], assets: int) -> None:
    producer = Producer({**client_settings(kafka), "message.max.bytes": 16 * 1024 * 1024, "linger.ms": 5})
    for changelog in CHANGELOGS:
        for n in range(assets):
            key = f"R{n}".encode()
            producer.produce(
                changelog.full_name(kafka.prefix), rows[changelog.name], key, partition=n % kafka.partitions
            )
            producer.flush(30)
