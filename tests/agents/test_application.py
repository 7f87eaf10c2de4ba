"""Settings of the Faust application that correctness or security rests on."""

import ssl
from typing import cast

import pytest
from faust.transport.drivers.aiokafka import credentials_to_aiokafka_auth

from agents.application import application, credentials, state_table
from agents.ownership import Ownership
from agents.reader import Reader
from runtime.config import Kafka, Plant
from schemas.topics import CHANGELOGS, RAW


async def _nothing(*_: object) -> None:
    return


def _ownership() -> Ownership:
    return Ownership(frozenset({"raw"}), _nothing, _nothing, cast(Reader, None))  # nothing is read here


def test_kafka_security_reaches_the_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    """User, password and mechanism, with and without TLS, arrive at the driver; TLS verifies the broker's name."""
    monkeypatch.setenv("KAFKA_PASSWORD", "secret")
    scram = Kafka(security="SASL_SSL", username="agent", sasl_mechanism="SCRAM-SHA-256")
    settings = credentials_to_aiokafka_auth(credentials(scram))
    context = settings.pop("ssl_context")
    assert isinstance(context, ssl.SSLContext)
    assert context.check_hostname and context.verify_mode is ssl.CERT_REQUIRED
    assert settings == {
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-256",
        "sasl_plain_username": "agent",
        "sasl_plain_password": "secret",
    }
    plain = credentials_to_aiokafka_auth(credentials(Kafka(security="SASL_PLAINTEXT", username="agent")))
    assert (plain["security_protocol"], plain["ssl_context"]) == ("SASL_PLAINTEXT", None)
    assert credentials_to_aiokafka_auth(credentials(Kafka(security="SSL")))["security_protocol"] == "SSL"
    assert credentials(Kafka()) is None


async def test_the_changelog_has_the_name_of_the_table_of_topics() -> None:
    """Faust reads and co-partitions the very topic that was created; another name is refused at the start."""
    app = application(Plant(), "validation", _ownership())
    table = state_table(app, Plant(), CHANGELOGS[0])
    assert table.changelog_topic_name == CHANGELOGS[0].full_name("twin")
    with pytest.raises(RuntimeError, match="Faust calls the changelog"):
        state_table(application(Plant(), "sink", _ownership()), Plant(), RAW)
