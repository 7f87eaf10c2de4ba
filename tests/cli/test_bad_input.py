"""What cannot be used ends a command with a line that names it, the documented exit code, and nothing written."""

from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from cli import rejected
from cli.main import app
from cli.rejected_log import RejectedLog
from runtime.exit_codes import BAD_CONFIGURATION, FAILED
from schemas.codec import DecodeError

SASL = {"KAFKA_SECURITY": "SASL_SSL", "KAFKA_USERNAME": "u", "KAFKA_PASSWORD_FILE": "/none"}
NO_PASSWORD = "KAFKA_PASSWORD_FILE = /none: cannot be read (No such file or directory)"
NO_TOKEN = "INFLUX_TOKEN_FILE = /none: cannot be read (No such file or directory)"
LATEST = ("query", "latest", "R101", "temperature")
NOWHERE = "http://127.0.0.1:1"
INJECTED = "tcp://10.0.0.1:1883"  # as Kubernetes does in every pod where there is a service of that name
PORT = f"'{INJECTED}': allowed is a number from 1 to 65535"
URL = "allowed is http://HOST:PORT or https://HOST:PORT"


@pytest.fixture(autouse=True)
def empty_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No configuration and no run folder, and nothing of ours in the environment."""
    monkeypatch.chdir(tmp_path)
    for name in ("TWIN_CONFIG", "TWIN_RUN_DIR", "INFLUX_TOKEN", "INFLUX_URL", "MQTT_PORT", *SASL):
        monkeypatch.delenv(name, raising=False)


def twin(*arguments: str, **environment: str) -> Result:
    """Run a command of the command line, in this process."""
    return CliRunner().invoke(app, arguments, env=environment)


@pytest.mark.parametrize(
    ("arguments", "environment", "line"),
    [
        (("tail", "raw"), SASL, NO_PASSWORD),
        (("topics", "create"), SASL, NO_PASSWORD),
        (LATEST, {"INFLUX_TOKEN_FILE": "/none"}, NO_TOKEN),
        (LATEST, {"INFLUX_TOKENS_DIR": "/none"}, "/none/viewer: cannot be read (No such file or directory)"),
        (("tokens", "out"), {"INFLUX_TOKEN_FILE": "/none"}, NO_TOKEN),
        (("tokens", "out"), {"INFLUX_URL": "nonsense"}, f"INFLUX_URL = 'nonsense': {URL}"),
        (("plant", "load"), {"MQTT_PORT": "abc"}, "MQTT_PORT = 'abc': allowed is a number from 1 to 65535"),
        (("compare", "a", "b", "--params", "/none"), {}, "/none: cannot be read (No such file or directory)"),
        (("connector", "mqtt"), {"MQTT_PORT": INJECTED}, f"MQTT_PORT = {PORT}"),
        (("connector", "mqtt"), {"TWIN_METRICS_PORT": INJECTED}, f"TWIN_METRICS_PORT = {PORT}"),
        (("connector", "opcua"), {"OPCUA_URL": "plc7"}, "OPCUA_URL = 'plc7': allowed is opc.tcp://HOST:PORT"),
        (
            ("agent", "validation"),
            {"KAFKA_SECURITY": "foo"},
            "KAFKA_SECURITY = 'foo': allowed is PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL",
        ),
        (
            ("agent", "twin"),
            {"KAFKA_BOOTSTRAP": "tcp://10.0.0.1:9092"},
            "KAFKA_BOOTSTRAP = 'tcp://10.0.0.1:9092': allowed is HOST:PORT[,HOST:PORT]",
        ),
        (("agent", "sink"), {"INFLUX_URL": "nonsense"}, f"INFLUX_URL = 'nonsense': {URL}"),
        (
            ("acl", "--apply"),
            {"KAFKA_USERNAME": "admin"},
            'Kafka\'s KAFKA_USERNAME with security = "PLAINTEXT" would not be used; set security, or KAFKA_SECURITY, '
            "to SASL_SSL",
        ),
    ],
)
def test_what_cannot_be_used_is_named_in_one_line(
    arguments: tuple[str, ...], environment: dict[str, str], line: str
) -> None:
    """Exit code 78, and one line with what it is, its value and what is allowed; before anything is started."""
    done = twin(*arguments, **environment)
    assert (done.exit_code, done.stderr, done.stdout) == (BAD_CONFIGURATION, f"{line}\n", "")


def test_an_agent_does_not_mind_what_it_does_not_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only who talks to a service looks at its address: a service "mqtt" in its namespace stops no agent."""
    monkeypatch.setattr("agents.twin.run", lambda _plant: 0)
    assert twin("agent", "twin", MQTT_PORT=INJECTED, INFLUX_URL="nonsense").exit_code == 0


@pytest.mark.parametrize("command", [LATEST, ("tokens", "out")])
@pytest.mark.parametrize(
    ("token", "code", "begins"),
    [("topsecret123\n", FAILED, ""), ("topsecret€123", BAD_CONFIGURATION, "INFLUX_TOKEN: ")],
)
def test_no_command_prints_the_token(command: tuple[str, ...], token: str, code: int, begins: str) -> None:
    """A line end behind it is left out; with a character that no header can hold it is refused by its name."""
    done = twin(*command, INFLUX_TOKEN=token, INFLUX_URL=NOWHERE)
    assert done.exit_code == code
    assert isinstance(done.exception, SystemExit), "no traceback"
    assert done.stderr.startswith(begins)
    assert len(done.stderr.splitlines()) == 1
    assert "topsecret" not in done.output


def test_a_record_that_is_not_ours_is_no_rejected_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """`twin rejected show` of a place where something else stands says that there is none."""

    class Foreign(RejectedLog):
        def read(self, places: object) -> object:  # type: ignore[override]
            raise DecodeError("not ours")

    monkeypatch.setattr(rejected, "on_topics_at_work", lambda plant: plant)
    monkeypatch.setattr(rejected, "_read", Foreign)
    done = twin("rejected", "show", "0/7")
    assert (done.exit_code, done.stderr) == (
        FAILED, "no rejected record at 0/7; `twin rejected list` shows what there is\n",
    )  # fmt: skip
