"""Row 9: every client reaches Kafka over a line that is half a second slow and breaks 1 % of what it carries."""

import time

from tests.faults.rig import Rig
from tests.faults.standard import bounded_memory, under_load
from tests.faults.system import CONNECTORS, System

TITLE = "slow Kafka: 500 ms, 1 % resets"
DELAY_S, RESET_SHARE = 0.5, 0.01
#: Four hops, each with a write and a read that take the delay, and what waits while a connection is made anew.
LAG_S = 20.0
#: A broken connection may cost a member its place now and then; a storm is a rebalance per heartbeat.
REBALANCES_PER_MINUTE = 4.0
NAMES = ("sink", *CONNECTORS)
LOG = r"(?i)(kafka|broker).*(disconnect|timed out|no answer|not answer|transport|connection)"


def run(rig: Rig) -> None:
    """For a while; then the line is good again."""
    under_load(rig, strike, proxies=("kafka",))


def strike(rig: Rig, system: System) -> None:
    """Make the line bad, look at lag and groups, make it good."""
    proxy = system.kafka_proxy
    assert proxy is not None, "this row needs the proxy in front of Kafka"
    lasts_s = rig.times(full=300, short=20)
    rebalances, resets, delayed = _rebalances(system), proxy.resets, proxy.delayed
    restarts = {name: system.state(name).restarts for name in system.pids()}
    logged = {name: system.log_matches(name, LOG) for name in NAMES}
    retries = _retries(system)
    with bounded_memory(rig, system):
        proxy.delay_s, proxy.reset_share = DELAY_S, RESET_SHARE
        with system.pulse.lags_s() as lags_s:
            time.sleep(lasts_s)
        proxy.delay_s = proxy.reset_share = 0.0
        rig.struck(proxy.resets - resets)
        system.wait_flowing(60)
    rebalances = _rebalances(system) - rebalances
    rig.note("resets", proxy.resets - resets)
    rig.note("answers delayed", proxy.delayed - delayed)
    rig.note("rebalances", rebalances)
    rig.note(
        "lag of the twin (s)", {"median": round(sorted(lags_s)[len(lags_s) // 2], 2), "max": round(max(lags_s), 2)}
    )
    rig.require(proxy.delayed > delayed, "answers were delayed")
    rig.require(max(lags_s) < LAG_S, f"the lag is bounded by {LAG_S:g} s: {max(lags_s):.1f} s")
    allowed = max(2.0, REBALANCES_PER_MINUTE * lasts_s / 60)
    rig.require(rebalances <= allowed, f"no rebalance storm: {rebalances} in {lasts_s} s")
    ended = [name for name, before in restarts.items() if system.state(name).restarts > before]
    rig.note("ended and started again", ended)
    told = {name: system.log_matches(name, LOG) - before for name, before in logged.items()}
    rig.note("lines in logs", told)
    silent = [name for name, lines in told.items() if not lines]  # a line that breaks and is back at once is no news
    rig.require(
        len(silent) <= rig.times(full=0, short=len(NAMES) - 1), f"logs say that Kafka broke off: not of {silent}"
    )
    if not ended:  # whoever is started again counts from nothing
        rig.require(_retries(system) > retries, "twin_retries_total of some process counts it")


def _retries(system: System) -> float:
    return sum(system.metric(name, "twin_retries_total", dependency="kafka") or 0.0 for name in system.pids())


def _rebalances(system: System) -> int:
    """How often the broker began to balance one of our groups."""
    text = system.stack.kafka.log.read_text("utf-8", "replace")
    return text.count(f"Preparing to rebalance group {system.plant.kafka.prefix}-")
