"""Secured services for tests: TLS, a user or token per role, the repository's rules, everything else denied."""

import secrets
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka.admin import AdminClient

from runtime import acl
from runtime.config import Kafka as KafkaConfig
from runtime.kafka import create_topics
from services import mosquitto, stack
from services.certificates import Authority
from services.kafka import ADMIN, Kafka, Security

ROOT = Path(__file__).parent.parent
PARTITIONS = 2
MQTT_USER = "connector-mqtt"


def password() -> str:
    """A random one; the characters are those that every service takes."""
    return secrets.token_urlsafe(24)


class SecuredKafka:
    """The broker, the authority that clients trust, and a folder of passwords per prefix. `start` it first.

    `add(prefix)` makes an installation on it: users, rules, topics. `config(role, prefix)` is how one process connects,
    `lines(prefix)` the same for all of them as lines of `[kafka]` in a configuration.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.make(directory / "certificates")
        server = self.authority.server("kafka")
        self.security = Security(server, self.authority.certificate, {ADMIN: password()})
        self.kafka = Kafka(directory / "kafka", directory / "logs" / "kafka.log", security=self.security)

    def start(self) -> None:
        """Start the broker and wait for it."""
        self.kafka.start()
        self.kafka.wait_ready(90)

    def admin(self) -> AdminClient:
        """A client that may do everything."""
        return AdminClient(self.kafka.admin_settings())

    def passwords(self, prefix: str) -> Path:
        """Where the passwords of an installation are."""
        return self.directory / "passwords" / prefix

    def add(self, prefix: str, partitions: int = PARTITIONS) -> None:
        """Users, rules and topics of an installation."""
        admin = self.admin()
        acl.set_passwords(admin, prefix, self.passwords(prefix))
        acl.apply(admin, prefix)
        create_topics(self.config("topics", prefix, partitions))

    def config(self, role: str, prefix: str, partitions: int = PARTITIONS) -> KafkaConfig:
        """How the process of a role connects."""
        return KafkaConfig(
            bootstrap=self.kafka.bootstrap,
            prefix=prefix,
            partitions=partitions,
            security="SASL_SSL",
            passwords_dir=self.passwords(prefix),
            ca_file=self.authority.certificate,
        ).as_role(role)

    def lines(self, prefix: str, partitions: int = PARTITIONS) -> str:
        """The section `[kafka]` for all processes."""
        return (
            f'[kafka]\nbootstrap = "{self.kafka.bootstrap}"\nprefix = "{prefix}"\npartitions = {partitions}\n'
            f'security = "SASL_SSL"\npasswords_dir = "{self.passwords(prefix)}"\n'
            f'ca_file = "{self.authority.certificate}"\n'
        )


class SecuredStack(SecuredKafka):
    """All three services: Kafka as above, mosquitto and InfluxDB over TLS with users and tokens.

    `devices` are the assets that may publish, as users of their own names.
    """

    def __init__(self, directory: Path, devices: Sequence[str] = ()) -> None:
        super().__init__(directory)
        self.mqtt_users = {user: password() for user in (MQTT_USER, *devices)}
        ca = self.authority.certificate
        self.stack = stack.Stack(
            directory,
            security=stack.Security(
                kafka=self.security,
                mosquitto=mosquitto.Security(
                    self.authority.server("mosquitto"), ca, ROOT / "deploy" / "mosquitto.acl", self.mqtt_users
                ),
                influxdb=self.authority.server("influxdb"),
                ca_file=ca,
            ),
        )
        self.kafka = self.stack.kafka
        self.mqtt_password = directory / "mqtt-password"
        self.mqtt_password.touch(0o600)
        self.mqtt_password.write_text(self.mqtt_users[MQTT_USER])

    def start(self) -> None:
        """Start all three and wait for them."""
        self.stack.start("kafka", "influxdb", "mosquitto")

    def stop(self) -> None:
        """Stop all three."""
        self.stack.stop()

    def configuration(self, prefix: str, partitions: int = PARTITIONS) -> str:
        """The whole configuration of an MQTT plant on these services; there is no secret in it."""
        influx, broker, ca = self.stack.influxdb, self.stack.mosquitto, self.authority.certificate
        return (
            f"opcua = []\n{self.lines(prefix, partitions)}"
            f'[influxdb]\nurl = "{influx.url}"\norg = "{influx.org}"\nbucket = "{influx.bucket}"\n'
            f'tokens_dir = "{influx.tokens_dir}"\nca_file = "{ca}"\n'
            f'[[mqtt]]\nid = "{prefix}-mqtt"\nhost = "{broker.host}"\nport = {broker.port}\ntls = true\n'
            f'ca_file = "{ca}"\nusername = "{MQTT_USER}"\npassword_file = "{self.mqtt_password}"\n'
        )

    def secrets(self) -> set[str]:
        """Everything that nobody may ever see."""
        influx = self.stack.influxdb
        files = [*influx.tokens_dir.iterdir(), *(self.directory / "passwords").rglob("*/*"), self.mqtt_password]
        keys = [line for key in self.authority.directory.glob("*.key") for line in key.read_text().splitlines()[1:-1]]
        known = {path.read_text().strip() for path in files}
        return known | {influx.token, *self.security.users.values(), *self.mqtt_users.values(), *keys}
