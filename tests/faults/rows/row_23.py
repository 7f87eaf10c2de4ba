"""Row 23: MQTT: wrong password, rules that deny, restarts with and without sessions, client id taken over."""

import signal
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import pairwise
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from connectors.mqtt_session import STABLE_S
from services.mosquitto import Mosquitto, password_line
from services.stack import Stack
from tests.faults.rig import Rig
from tests.faults.system import MQTT, System, running
from tests.secured import password

TITLE = "MQTT: wrong password, ACL denies, broker restart with and without sessions, client id taken over"
USER = "connector"
PATIENCE_S = 120.0
BACKOFF_MAX_S = 60.0
SILENCE_S = 4.0
#: Devices of the load have no password and only write; rules before the first user are theirs.
ALLOWED = f"topic write reactor/#\nuser {USER}\ntopic read reactor/#\n"
DENIED = "topic write reactor/#\n"
#: Causes of gaps that this row may leave: a wrong password, a restart with sessions and a second client leave none.
TOLD = {"MQTT session lost", "nothing came by MQTT"}


def run(rig: Rig) -> None:
    """Each is seen as unhealthy, with the reason; what the broker threw away is told by gaps; nothing else is lost."""
    stack = Stack(rig.folder / "services")
    broker = Broker(rig.folder, stack.mosquitto)
    connector = {
        "id": MQTT, "username": USER, "password_file": str(broker.ours), "silence_s": SILENCE_S,
    }  # fmt: skip
    with stack, running(rig, stack, {"mqtt": [connector]}) as system:
        Trouble(rig, system, broker).strike()
        report = system.finish(told=True)
        lost = {hole["cause"] for hole in report["told"] if hole["missing"]}
        rig.note("lost, as told", {c: sum(h["missing"] for h in report["told"] if h["cause"] == c) for c in lost})
        rig.require(lost <= TOLD, f"nothing is lost but for {sorted(TOLD)}: {sorted(lost)}")


class Broker:
    """mosquitto with a user for the connector; `password`: what it wants, `ours`: the file with what we have."""

    def __init__(self, folder: Path, service: Mosquitto) -> None:
        self.service = service
        self.ours, self._users, self._rules = (folder / name for name in ("mqtt-password", "mqtt-users", "mqtt-rules"))
        self.password = password()
        self.ours.write_text(self.password)
        self._write()
        self._rules.write_text(ALLOWED)
        service.extra_settings |= {"password_file": str(self._users), "acl_file": str(self._rules)}

    def change_password(self) -> None:
        """The broker wants another one from its next start on."""
        self.password = password()
        self._write()

    def rule(self, rules: str) -> None:
        """These rules hold from now on."""
        self._rules.write_text(rules)
        self.reload()

    def reload(self) -> None:
        """mosquitto reads users and rules."""
        assert self.service.exit_code is None
        self.service._process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]

    def _write(self) -> None:
        self._users.write_text(password_line(USER, self.password))


class Trouble:
    """One after the other."""

    def __init__(self, rig: Rig, system: System, broker: Broker) -> None:
        self.rig, self.system, self.broker = rig, system, broker
        self.reasons: dict[str, str] = {}

    def strike(self) -> None:
        """All of them, in an order by the seed; three of them in the short form."""
        blows: Mapping[str, Callable[[], None]] = {
            "wrong password": self.wrong_password,
            "rules deny": self.rules_deny,
            "restart": self.restart,
            "restart without sessions": self.restart_without_sessions,
            "taken over": self.taken_over,
        }
        pid = self.system.pid(MQTT)
        for name in self.rig.rng.sample(list(blows), self.rig.times(full=len(blows), short=3)):
            time.sleep(STABLE_S + self.rig.rng.uniform(0.2, 1.5))  # else the next delay goes on from the last
            blows[name]()
            self.well(name)
        self.rig.require(self.system.pid(MQTT) == pid, "the connector was never started again")
        self.rig.note("reasons", self.reasons)

    def wrong_password(self) -> None:
        """The broker's password is changed; later the connector's, too. How often it tries is looked at meanwhile."""
        # By a restart: a client that mosquitto 2.0.11 throws out at SIGHUP loses what comes for its session meanwhile.
        with self.system.without("mosquitto", clean=True):
            self.broker.change_password()
        self.ill("wrong password", "(?i)not authori[sz]ed|bad user name")
        times = [time.monotonic()]
        attempts = self._attempts()
        wanted = self.rig.times(full=8, short=2)  # 1, 2, 4, … 60, 60 s
        while len(times) <= wanted:
            assert time.monotonic() - times[-1] < 2 * BACKOFF_MAX_S, "it does not try again"
            time.sleep(0.1)
            if (now := self._attempts()) > attempts:
                attempts = now
                times.append(time.monotonic())
        waits = [round(b - a, 1) for a, b in pairwise(times)]
        self.rig.note("tried again after (s)", waits)
        self.rig.require(max(waits) <= BACKOFF_MAX_S + 5.0, f"tries at least once a minute: {waits}")
        self.broker.ours.write_text(self.broker.password)

    def rules_deny(self) -> None:
        """The connector may read nothing; the broker does not say so, and throws away what comes."""
        self.broker.rule(DENIED)
        self.ill("rules deny", "nothing has come")
        self.broker.rule(ALLOWED)

    def restart(self) -> None:
        """The broker keeps sessions and what is in them."""
        lost = self._lost_sessions()
        with self.system.without("mosquitto", clean=True):
            self.ill("restart", "lost|cannot connect|refused")
        self.rig.wait_for(lambda: not self.system.state(MQTT).trouble, "connected again", PATIENCE_S)
        self.rig.require(self._lost_sessions() == lost, "the broker still has the session")

    def restart_without_sessions(self) -> None:
        """The broker's store is lost."""
        lost, service = self._lost_sessions(), self.broker.service
        with self.system.without("mosquitto"):
            for path in service.directory.glob("mosquitto.db*"):
                path.unlink()
            self.ill("restart without sessions", "lost|cannot connect|refused")
        self.rig.wait_for(lambda: self._lost_sessions() > lost, "the lost session is noticed", PATIENCE_S)

    def taken_over(self) -> None:
        """Another client of the same id takes the session, again and again, as a connector started twice does."""
        double = Double(self.broker)
        try:
            self.ill("taken over", f"another client use the id twin-{MQTT}")
            self.rig.wait_for(lambda: double.seen, "the other client gets messages", PATIENCE_S)
            time.sleep(self.rig.times(full=20, short=1))
        finally:
            double.close()
        self.rig.note("messages the other client got", double.seen)

    def ill(self, name: str, pattern: str) -> None:
        """See the connector unhealthy for a reason: in its metric, in its log, and by the supervisor."""
        system = self.system
        self.rig.wait_for(lambda: system.trouble(MQTT, pattern), f"{name}: not ready ({pattern})", PATIENCE_S)
        self.reasons[name] = system.state(MQTT).trouble
        # The one who fights for his session is well now and then.
        self.rig.wait_for(lambda: system.metric(MQTT, "twin_healthy") == 0, f"{name}: unhealthy", PATIENCE_S)
        self.rig.require(system.log_matches(MQTT, pattern), f"{name}: a line in the log ({pattern})")
        self.rig.struck()

    def well(self, name: str) -> None:
        """See everything flow, and the connector healthy."""
        self.system.wait_flowing(PATIENCE_S)
        self.rig.wait_for(lambda: not self.system.state(MQTT).trouble, f"{name}: healthy again", PATIENCE_S)

    def _attempts(self) -> float:
        return self.system.metric(MQTT, "twin_retries_total", dependency="mqtt") or 0.0

    def _lost_sessions(self) -> int:
        return self.system.log_matches(MQTT, "has lost the session")


class Double:
    """A client with the connector's id and password, which comes back when it is put out.

    It acknowledges nothing. What a client acknowledges the broker forgets, and no other can learn of it.
    """

    def __init__(self, broker: Broker) -> None:
        self.seen = 0
        self._client = paho.Client(
            paho.CallbackAPIVersion.VERSION2, f"twin-{MQTT}", protocol=paho.MQTTv5, manual_ack=True
        )
        self._client.username_pw_set(USER, broker.password)
        self._client.on_message = self._see
        self._client.reconnect_delay_set(1, 1)
        properties = Properties(PacketTypes.CONNECT)
        properties.SessionExpiryInterval = 3600
        service = broker.service
        self._client.connect(service.host, service.port, clean_start=False, properties=properties)
        self._client.loop_start()

    def close(self) -> None:
        """Leave the session to the connector."""
        with suppress(OSError):
            self._client.disconnect()
        self._client.loop_stop()

    def _see(self, _client: Any, _data: Any, _message: Any) -> None:
        self.seen += 1
