"""Fixtures every test may use: real services, started once per run and only when a test asks for them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from services.influxdb import InfluxDB
from services.mosquitto import Mosquitto
from services.stack import Stack
from tests.secured import SecuredKafka

# The same examples each time, so that what fails was broken by a change; `make explore` looks for new ones.
settings.register_profile("explore", derandomize=False)
settings.register_profile("repeatable", derandomize=True, database=None)
settings.load_profile("repeatable")


@pytest.fixture(scope="session")
def _shared_stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Services of this run, none started yet; whatever was started is stopped by its pid at the end."""
    directory: Path = tmp_path_factory.mktemp("stack")
    shared = Stack(directory)
    yield shared
    shared.stop()


@pytest.fixture(scope="session")
def kafka(_shared_stack: Stack) -> str:
    """The bootstrap address of a real Kafka broker; topics are not created by using them."""
    _shared_stack.start("kafka")
    return _shared_stack.kafka.bootstrap


@pytest.fixture(scope="session")
def influx(_shared_stack: Stack) -> InfluxDB:
    """A real InfluxDB with `url`, `org`, `bucket` and `token`."""
    _shared_stack.start("influxdb")
    return _shared_stack.influxdb


@pytest.fixture(scope="session")
def mqtt_broker(_shared_stack: Stack) -> Mosquitto:
    """A real mosquitto with `host` and `port`."""
    _shared_stack.start("mosquitto")
    return _shared_stack.mosquitto


@pytest.fixture(scope="session")
def stack(_shared_stack: Stack) -> Stack:
    """All three services, with their addresses in `env` under the names of `twin env`."""
    _shared_stack.start("kafka", "influxdb", "mosquitto")
    return _shared_stack


@pytest.fixture(scope="session")
def secured_kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SecuredKafka]:
    """A real Kafka with TLS, SCRAM users and an authorizer that denies what no rule allows."""
    secured = SecuredKafka(tmp_path_factory.mktemp("secured"))
    try:
        secured.start()
        yield secured
    finally:
        secured.kafka.stop()
