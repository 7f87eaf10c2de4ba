"""Row 24: Kafka with TLS and SCRAM: wrong authority, certificate expired, wrong password, no right, right revoked."""

import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from confluent_kafka.admin import AclOperation

from runtime import acl
from schemas.topics import user_id
from services.certificates import Authority
from services.kafka import ADMIN
from services.stack import Stack
from tests.faults.rig import Rig
from tests.faults.system import MQTT, OPCUA, System, running
from tests.secured import SecuredKafka, password

TITLE = "Kafka TLS and SCRAM: wrong CA, expired, wrong password, no right to write, right revoked"
PATIENCE_S = 120.0
STANDS_S = 3.0
#: What is on its way when the blow lands may still come through.
SETTLED_S = 5.0
PARTITIONS = 4
ROLES = {MQTT: "connector.mqtt", OPCUA: "connector.opcua"}
STAGES = ("validation", "estimation", "twin", "sink")


def run(rig: Rig) -> None:
    """Nothing goes through while it is refused; it flows again by the repair alone; no secret is in any log."""
    secured = SecuredKafka(rig.folder / "secured")
    stack = Stack(rig.folder / "services")
    stack.kafka = secured.kafka
    prefix, ca_file = f"row{rig.outcome.row}-{rig.outcome.seed}", rig.folder / "ca.pem"
    shutil.copyfile(secured.authority.certificate, ca_file)
    passwords = secured.passwords(prefix)
    settings = {
        "kafka": {"security": "SASL_SSL", "ca_file": str(ca_file), "passwords_dir": str(passwords)},
    }
    with stack:
        secured.add(prefix, PARTITIONS)
        _be_the_administrator(rig, secured)
        with running(rig, stack, settings) as system:
            trouble = Trouble(rig, system, secured, ca_file)
            trouble.strike()
            system.finish()
            trouble.see_no_secret()


def _be_the_administrator(rig: Rig, secured: SecuredKafka) -> None:
    """What this process looks at, and the checker; every process of the system has its own user."""
    file = rig.folder / "admin-password"
    _write(file, secured.security.users[ADMIN])
    os.environ |= {"KAFKA_USERNAME": ADMIN, "KAFKA_PASSWORD_FILE": str(file)}
    properties = rig.folder / "kafka.properties"
    _write(properties, "".join(f"{key}={value}\n" for key, value in secured.security.client(ADMIN).items()))
    os.environ["KAFKA_PROPERTIES"] = str(properties)


class Trouble:
    """One refusal after the other."""

    def __init__(self, rig: Rig, system: System, secured: SecuredKafka, ca_file: Path) -> None:
        self.rig, self.system, self.secured, self.ca_file = rig, system, secured, ca_file
        self.prefix = system.plant.kafka.prefix
        self.other = Authority.make(rig.folder / "other-authority")
        self.wrong: set[str] = set()
        self.reasons: dict[str, dict[str, str]] = {}

    def strike(self) -> None:
        """All of them, in an order by the seed; two of them in the short form."""
        blows = {
            "wrong password": self.wrong_password,
            "wrong authority": self.wrong_authority,
            "expired": self.expired,
            "right revoked": self.right_revoked,
            "no right at the start": self.no_right,
        }
        for name in self.rig.rng.sample(list(blows), self.rig.times(full=len(blows), short=2)):
            time.sleep(self.rig.rng.uniform(0.2, 1.5))
            blows[name]()
        self.rig.note("reasons", self.reasons)

    def chosen(self) -> tuple[str, ...]:
        """The processes that are struck: a connector and a stage."""
        return self.rig.rng.choice((MQTT, OPCUA)), self.rig.rng.choice(STAGES[:3])

    def wrong_password(self) -> None:
        """Processes are started with a password that is not theirs (any more)."""
        names = self.chosen()
        files = {self.secured.passwords(self.prefix) / self.user(name) for name in names}
        right = {file: file.read_text() for file in files}
        for file in files:
            self.wrong.add(wrong := password())
            _write(file, wrong)
        self.system.kill(*names)
        self.refused("wrong password", names, "(?i)authentication", lambda: [_write(f, t) for f, t in right.items()])

    def wrong_authority(self) -> None:
        """Processes are started that trust another authority than the broker's."""
        names = self.chosen()
        shutil.copyfile(self.other.certificate, self.ca_file)
        self.system.kill(*names)
        right = self.secured.authority.certificate
        self.refused("wrong authority", names, "(?i)certificate", lambda: shutil.copyfile(right, self.ca_file))

    def expired(self) -> None:
        """The broker's certificate has ended; it is renewed."""
        kafka, authority = self.system.stack.kafka, self.secured.authority
        kafka.stop()
        authority.renew("kafka", days=-1)
        kafka.start()
        self.rig.wait_for(lambda: _listens(kafka.port), "Kafka listens", 90)
        self.rig.struck()

        def renew() -> None:
            kafka.stop()
            authority.renew("kafka")
            kafka.start()
            kafka.wait_ready(90)

        # Of a connection that it had before, librdkafka may say no more than that all brokers are down.
        self.refused("expired", (MQTT, OPCUA), "(?i)certificate|brokers are down", renew, clear="(?i)certificate")

    def right_revoked(self) -> None:
        """Running processes lose the right to write."""
        names = self.chosen()
        self.revoke(names)
        self.refused("right revoked", names, "(?i)authoriz|no right", self.give_back)

    def no_right(self) -> None:
        """Processes are started that have no right to write."""
        names = self.chosen()
        self.revoke(names)
        self.system.kill(*names)
        self.refused("no right at the start", names, "(?i)authoriz|no right", self.give_back)

    def revoke(self, names: Sequence[str]) -> None:
        """Take every right to write from these."""
        users = {self.user(name) for name in names}
        rights = [
            r for r in acl.rights(self.prefix) if r.user in users and r.operation == AclOperation.WRITE.name.title()
        ]
        admin = self.secured.admin()
        filters = [acl.exactly(acl.binding_of(right)) for right in rights]
        removed = [rule for future in admin.delete_acls(filters).values() for rule in future.result()]
        self.rig.require(len(removed) == len(rights), f"{len(rights)} rights are taken away: {len(removed)}")
        self.rig.struck(len(removed))

    def give_back(self) -> None:
        """As `twin acl --apply`."""
        acl.apply(self.secured.admin(), self.prefix)

    def user(self, name: str) -> str:
        """The user of a process."""
        return user_id(ROLES.get(name, name), self.prefix)

    def refused(
        self, what: str, names: Sequence[str], pattern: str, repair: Callable[[], object], clear: str = ""
    ) -> None:
        """See processes unhealthy for a reason (one of them for a `clear` one) and nothing of theirs go through; then
        repair, and do no more."""
        system, connector = self.system, names[0]
        for name in names:
            self.rig.wait_for(lambda name=name: self.says(name, pattern), f"{what}: {name} says so", PATIENCE_S)  # type: ignore[misc]
        self.rig.wait_for(
            lambda: any(self.says(name, clear) for name in names), f"{what}: one says {clear}", PATIENCE_S
        )
        time.sleep(SETTLED_S)
        stood_s = system.pulse.newest_s(connector)
        time.sleep(self.rig.times(full=20, short=1) * STANDS_S)
        self.rig.require(system.pulse.newest_s(connector) == stood_s, f"{what}: nothing of {connector} goes through")
        self.reasons[what] = {name: system.state(name).trouble for name in names}
        repair()
        system.wait_flowing(PATIENCE_S)
        healthy_s = self.rig.wait_for(
            lambda: all(one.ready and not one.trouble for one in map(system.state, names)),
            f"{what}: healthy",
            PATIENCE_S,
        )
        self.rig.note(f"{what}: healthy after flow (s)", round(healthy_s, 1))

    def says(self, name: str, pattern: str) -> bool:
        """Whether a process is not ready and tells why."""
        one = self.system.state(name)
        return re.search(pattern, one.trouble) is not None

    def see_no_secret(self) -> None:
        """No password, right or wrong, and no private key in any log."""
        secrets = {file.read_text().strip() for file in self.secured.passwords(self.prefix).iterdir()}
        secrets |= self.wrong | set(self.secured.security.users.values())
        keys = self.secured.authority.directory.glob("*.key")
        secrets |= {line for key in keys for line in key.read_text().splitlines()[1:-1]}
        logs = [path for folder in (self.system.run_dir, self.rig.folder) for path in folder.rglob("*.log")]
        self.rig.require(len(logs) >= len(STAGES) + 3, f"there are logs: {len(logs)}")
        seen = [log.name for log in logs if any(secret in log.read_text("utf-8", "replace") for secret in secrets)]
        self.rig.require(not seen, f"no secret is in any log: {seen}")
        self.rig.note("secrets looked for", len(secrets))


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _write(path: Path, text: str) -> None:
    partial = path.with_name(f".{path.name}.new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
    partial.replace(path)
