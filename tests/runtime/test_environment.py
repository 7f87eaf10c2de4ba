"""What the environment adds to a configuration: refused, with its name, where it cannot be used."""

from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.config import ConfigurationError, Influxdb, Kafka, Mqtt, Opcua, UnreadableSecret
from runtime.load import load

VARIABLES = (
    "KAFKA_BOOTSTRAP", "KAFKA_SECURITY", "KAFKA_USERNAME", "KAFKA_PASSWORD", "KAFKA_PASSWORD_FILE", "KAFKA_CA_FILE",
    "INFLUX_URL", "INFLUX_TOKEN", "INFLUX_TOKEN_FILE", "INFLUX_TOKENS_DIR", "MQTT_HOST", "MQTT_PORT", "OPCUA_URL",
)  # fmt: skip


@pytest.fixture(autouse=True)
def empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """None of our variables is set."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("end", ["", "\n", "\r\n", " "])
def test_white_space_around_a_secret_is_not_part_of_it(monkeypatch: pytest.MonkeyPatch, end: str) -> None:
    """A line end that a shell or a secret's file left in the variable is not sent: no header may have one."""
    monkeypatch.setenv("INFLUX_TOKEN", f"topsecret123{end}")
    assert Influxdb().token == "topsecret123"


@pytest.mark.parametrize("secret", ["topsecret\n123", "topsecret\x1b123", "topsecret€123", "topsecret\udcff123"])
@pytest.mark.parametrize("from_file", [True, False])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, secret: str, from_file: bool
) -> None:
    """The error names the variable or the file, and nothing of the secret."""
    file = tmp_path / "token"
    file.write_bytes(secret.encode("utf-8", "surrogateescape"))
    influxdb = Influxdb(token_file=file) if from_file else Influxdb()
    monkeypatch.setenv("INFLUX_TOKEN", secret)
    with pytest.raises(ConfigurationError) as error:
        _ = influxdb.token
    assert str(error.value).startswith(str(file) if from_file else "INFLUX_TOKEN: ")
    assert "topsecret" not in str(error.value)
    assert error.value.__cause__ is None


def test_a_password_may_have_every_letter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a header is Latin-1: Kafka's and MQTT's passwords are UTF-8."""
    monkeypatch.setenv("KAFKA_PASSWORD", "пароль€")
    assert Kafka().password == "пароль€"


def test_the_file_of_a_secret_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """For a command it is a mistake in the configuration; for who tries again for ever, an OSError like others."""
    monkeypatch.setenv("INFLUX_TOKEN_FILE", "/none")
    with pytest.raises(UnreadableSecret, match=r"^INFLUX_TOKEN_FILE = /none: cannot be read \(No such file") as error:
        _ = Influxdb().token
    assert isinstance(error.value, OSError)
    assert error.value.problems == [str(error.value)]
    with pytest.raises(ConfigurationError, match=rf"^{tmp_path}/viewer: cannot be read"):
        _ = Influxdb(tokens_dir=tmp_path).as_role("viewer").token


@pytest.mark.parametrize("line", ['passwords_dir = "p"', 'ca_file = "ca.pem"', 'username = "u"', 'password_file = "p"'])
def test_kafka_without_security_refuses_what_only_security_would_use(tmp_path: Path, line: str) -> None:
    """A user or an authority beside a forgotten `security` is an error, not a connection in clear."""
    file = tmp_path / "plant.toml"
    file.write_text(f"[kafka]\n{line}\n")
    with pytest.raises(ConfigurationError) as error:
        load(file)
    (problem,) = error.value.problems
    assert problem.startswith(
        f'{file}: kafka: Kafka\'s {line.split(maxsplit=1)[0]} with security = "PLAINTEXT" would not be used'
    )
    file.write_text(f'[kafka]\nsecurity = "SASL_SSL"\n{line}\n')
    assert load(file).kafka.protocol == "SASL_SSL"


def test_what_the_environment_says_of_security_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """KAFKA_SECURITY stands in for `security`, KAFKA_USERNAME and KAFKA_CA_FILE for their settings."""
    for name, remedy in (("KAFKA_USERNAME", "SASL_SSL"), ("KAFKA_CA_FILE", "SSL or SASL_SSL")):
        with monkeypatch.context() as within:
            within.setenv(name, "x")
            with pytest.raises(ConfigurationError, match=rf"{name} with .* would not be used; .* to {remedy}$"):
                _ = Kafka().protocol
            within.setenv("KAFKA_SECURITY", "SASL_SSL")
            assert Kafka().protocol == "SASL_SSL"
    file = tmp_path / "plant.toml"
    file.write_text('[kafka]\npasswords_dir = "p"\nca_file = "ca.pem"\n')
    monkeypatch.setenv("KAFKA_SECURITY", "SASL_SSL")
    assert load(file).kafka.as_role("viewer").protocol == "SASL_SSL"
    monkeypatch.setenv("KAFKA_SECURITY", "SSL")
    with pytest.raises(ConfigurationError, match="passwords_dir with"):
        load(file)
    monkeypatch.setenv("KAFKA_SECURITY", "SASL_PLAINTEXT")
    file.write_text('[kafka]\nsasl_mechanism = "PLAIN"\n')
    with pytest.raises(ConfigurationError, match="would send the password in clear"):
        load(file)


@pytest.mark.parametrize(
    ("variable", "value", "used", "allowed"),
    [
        ("MQTT_PORT", "tcp://10.0.0.1:1883", lambda: Mqtt().address, "a number from 1 to 65535"),
        ("MQTT_PORT", "0", lambda: Mqtt().address, "a number from 1 to 65535"),
        ("MQTT_PORT", "", lambda: Mqtt().address, "a number from 1 to 65535"),
        ("INFLUX_URL", "nonsense", lambda: Influxdb().address, "http://HOST:PORT or https://HOST:PORT"),
        ("INFLUX_URL", "http://h:x", lambda: Influxdb().address, "http://HOST:PORT or https://HOST:PORT"),
        ("OPCUA_URL", "plc7:4840", lambda: Opcua().address, "opc.tcp://HOST:PORT"),
        ("KAFKA_BOOTSTRAP", "tcp://10.0.0.1:9092", lambda: Kafka().address, "HOST:PORT[,HOST:PORT]"),
        ("KAFKA_SECURITY", "foo", lambda: Kafka().protocol, "PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
    ],
)
def test_an_address_that_is_none_is_named_with_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str, used: Callable[[], object], allowed: str
) -> None:
    """One line with variable, value and what is allowed; Kubernetes sets MQTT_PORT for a service called mqtt."""
    assert used()
    monkeypatch.setenv(variable, value)
    with pytest.raises(ConfigurationError) as error:
        used()
    assert error.value.problems == [f"{variable} = {value!r}: allowed is {allowed}"]


def test_addresses_of_every_usual_form_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several brokers, IPv6, a path behind a URL."""
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "a.plant:9092, b_2:9093,[::1]:9094,c")
    monkeypatch.setenv("INFLUX_URL", "https://[::1]:8086/influx/")
    monkeypatch.setenv("OPCUA_URL", "opc.tcp://plc7/server")
    assert (Kafka().address[:6], Influxdb().address[:6], Opcua().address[:6]) == ("a.plan", "https:", "opc.tc")
