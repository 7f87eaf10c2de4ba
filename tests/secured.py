"""A secured Kafka for tests: TLS, a SCRAM user per role, the rules of `runtime/acl.toml`, everything else denied."""

from pathlib import Path

from confluent_kafka.admin import AdminClient

from runtime import acl
from runtime.config import Kafka as KafkaConfig
from runtime.kafka import create_topics
from services.certificates import Authority
from services.kafka import ADMIN, Kafka, Security

ADMIN_PASSWORD = "admin-s3cret-of-the-test"  # of a broker that lives as long as the test
PARTITIONS = 2


class SecuredKafka:
    """The broker, the authority that clients trust, and a folder of passwords per prefix. `start` it first.

    `add(prefix)` makes an installation on it: users, rules, topics. `config(role, prefix)` is how one process connects,
    `lines(prefix)` the same for all of them as lines of `[kafka]` in a configuration.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.authority = Authority.make(directory / "certificates")
        server = self.authority.server("kafka")
        self.security = Security(server, self.authority.certificate, {ADMIN: ADMIN_PASSWORD})
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
