"""The configuration: every problem at once, named; patterns merge in the order of the file; secrets stay out."""

from pathlib import Path

import pytest

from runtime.config import ConfigurationError, Estimation, Opcua, Plant, Validation
from runtime.load import load


def problems_of(tmp_path: Path, text: str) -> list[str]:
    """What is wrong with a configuration of this text, without the file's name."""
    file = tmp_path / "plant.toml"
    file.write_text(text, "utf-8")
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert all(p.startswith(f"{file}: ") for p in caught.value.problems)
    return [p.removeprefix(f"{file}: ") for p in caught.value.problems]


def test_all_problems_are_reported_at_once(tmp_path: Path) -> None:
    """Unknown keys, wrong values and wrong tags come in one report, each with key, value and what is allowed."""
    problems = problems_of(
        tmp_path,
        """
        [kafka]
        partitons = 3
        [[mqtt]]
        qos = 2
        framing = {linger_s = 20}
        [tags."*/temperature"]
        validation = {fail_span = [3, 1]}
        estimation = {proces_noise = 1.0}
        [assets."R*"]
        model = "magic"
        """,
    )
    assert len(problems) == 6
    for key, value, allowed in [
        ("kafka.partitons", "", "unknown key, allowed are bootstrap, prefix, partitions"),
        ("mqtt.0.qos", "= 2", "0 or 1"),
        ("mqtt.0.framing.linger_s", "= 20", "less than or equal to 10"),
        ('tags."*/temperature".validation', "", "fail_span = [3.0, 1.0]: the first must be less than the second"),
        ('tags."*/temperature".estimation.proces_noise', "", "unknown key, allowed are process_noise"),
        ('assets."R*".model', "= 'magic'", "'batch_reactor', 'cstr' or 'none'"),
    ]:
        assert any(p.startswith(key) and value in p and allowed in p for p in problems), (key, problems)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[kafka", "is not valid TOML"),
        ('[[mqtt]]\nid = "a"\n[[mqtt]]\nid = "a"', "connector id 'a' is used twice"),
        ('[[opcua]]\nsecurity = "None"', 'security = "None" with mode = "SignAndEncrypt"'),
        ('[[opcua]]\nsecurity = "None"\nmode = "None"\nusername = "u"', "would send the password in clear"),
        ('[[opcua]]\ndiscover = "x"', "allowed is a pattern with groups asset and tag"),
        ('[kafka]\nprefix = "twin.g2"', "kafka.prefix = 'twin.g2'"),  # dots are for runs and generations of a prefix
        ('[kafka]\nprefix = "twin.run.a"', "kafka.prefix = 'twin.run.a'"),
        (f'[tags."*"]\nunit = "{"u" * 65}"', "String should have at most 64 characters"),
        ("[[mqtt]]\nreceive_maximum = 500", "less than or equal to 128"),
        (
            '[tags."*"]\nvalidation = {fail_span = [0, 10], suspect_span = [5, 11]}',
            "suspect_span = [5.0, 11.0] must lie inside fail_span = [0.0, 10.0]",
        ),
    ],
)
def test_each_mistake_has_its_sentence(tmp_path: Path, text: str, message: str) -> None:
    """A mistake is answered with the sentence that names what is allowed."""
    assert any(message in p for p in problems_of(tmp_path, text))


def test_missing_file_is_named(tmp_path: Path) -> None:
    """A file that cannot be read is one problem that names it."""
    with pytest.raises(ConfigurationError, match=r"none\.toml: cannot be read"):
        load(tmp_path / "none.toml")


def test_patterns_merge_key_by_key_and_later_ones_win(tmp_path: Path) -> None:
    """All patterns that match a tag apply; a later one changes only the keys that it names."""
    file = tmp_path / "plant.toml"
    file.write_text(
        """
        [tags."*/temperature*"]
        interval_s = 1.0
        validation = {zscore_limit = 4.0, gap_factor = 3.0}
        [tags."R101/*"]
        validation = {zscore_limit = 6.0}
        """,
        "utf-8",
    )
    plant = load(file)
    tag = plant.tag("R101", "temperature")
    assert (tag.interval_s, tag.validation.zscore_limit, tag.validation.gap_factor) == (1.0, 6.0, 3.0)
    assert plant.tag("R102", "temperature").validation.zscore_limit == 4.0
    assert plant.tag("R102", "pressure").validation == Validation()
    assert plant.tag("R102", "pressure").estimation == Estimation()


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (
            """
            [tags."*/temperature".validation]
            fail_span = [0, 200]
            [tags."R101/*".validation]
            suspect_span = [-10, 150]
            """,
            'tags."*/temperature" with "R101/*".validation: '
            "suspect_span = [-10.0, 150.0] must lie inside fail_span = [0.0, 200.0]",
        ),
        (
            """
            [tags."R1[0-4]?/*".validation]
            flat_suspect_s = 9
            [tags."R??[1-3]/x".validation]
            flat_fail_s = 5
            [tags."*".validation]
            flat_tolerance = 1
            """,
            'tags."R1[0-4]?/*" with "R??[1-3]/x" with "*".validation: '
            "flat_suspect_s = 9.0 must not be greater than flat_fail_s = 5.0",
        ),
    ],
)
def test_patterns_that_contradict_each_other_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    """Each is valid alone, but a tag that both match would have every reading rejected: one line names them."""
    assert problems_of(tmp_path, text) == [problem]


def test_patterns_that_no_tag_shares_do_not_contradict_each_other(tmp_path: Path) -> None:
    """Nor do two that a third one, which matches whatever both do, puts right."""
    file = tmp_path / "plant.toml"
    file.write_text(
        """
        [tags."R1/*".validation]
        fail_span = [0, 200]
        [tags."R2/*".validation]
        suspect_span = [-10, 150]
        [tags."*/temperature".validation]
        suspect_span = [-10, 150]
        [tags."R1/*temperature".validation]
        fail_span = [-20, 200]
        """,
        "utf-8",
    )
    assert load(file).tag("R1", "temperature").validation.fail_span == (-20, 200)


def test_addresses_come_from_the_file_then_the_environment_then_loopback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An address in the file wins over the environment, which wins over loopback's usual port."""
    for name in ("KAFKA_BOOTSTRAP", "OPCUA_URL", "MQTT_HOST", "MQTT_PORT"):
        monkeypatch.delenv(name, raising=False)
    assert Plant().kafka.address == "127.0.0.1:9092"
    monkeypatch.setenv("KAFKA_BOOTSTRAP", "127.0.0.1:1")
    monkeypatch.setenv("MQTT_PORT", "2")
    assert Plant().kafka.address == "127.0.0.1:1"
    assert Plant().mqtt[0].address == ("127.0.0.1", 2)
    assert Opcua(url="opc.tcp://h:3").address == "opc.tcp://h:3"


def test_secrets_come_from_a_file_or_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A password comes from the file that is named, else from the environment, and is not part of the settings."""
    file = tmp_path / "password"
    file.write_text("from-file\n", "utf-8")
    monkeypatch.setenv("KAFKA_PASSWORD", "from-env")
    user = {"username": "u", "security": "SASL_SSL"}
    plant = Plant.model_validate({"kafka": user})
    assert plant.kafka.password == "from-env"
    named = Plant.model_validate({"kafka": {**user, "password_file": file}})
    assert named.kafka.password == "from-file"
    assert "from-" not in repr(plant) + repr(named)
