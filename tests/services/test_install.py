"""What is built once is reused only while it is whole, never built twice at once, and what is missing is named."""

import stat
import threading
from pathlib import Path

import pytest

from services import install, toolchain
from services.errors import MissingToolError, ServiceError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "process-twin"


class Builder:
    """A build that counts how often it ran."""

    def __init__(self) -> None:
        self.runs = 0

    def __call__(self, product: Path, log: Path) -> None:
        """Build: one file."""
        self.runs += 1
        (product / "program").write_text(f"build {self.runs}")


def test_a_whole_build_is_reused(cache: Path) -> None:
    """The second request builds nothing."""
    builder = Builder()
    assert install._cached("thing", "1", "a", builder) == cache / "thing-1"
    install._cached("thing", "1", "a", builder)
    assert builder.runs == 1


def test_a_damaged_or_outdated_build_is_replaced(cache: Path) -> None:
    """A file cut short, a missing stamp and another recipe each cause one new build."""
    builder = Builder()
    install._cached("thing", "1", "a", builder)
    (cache / "thing-1" / "program").write_text("")
    install._cached("thing", "1", "a", builder)
    assert builder.runs == 2
    (cache / "thing-1" / "stamp.json").unlink()
    install._cached("thing", "1", "a", builder)
    assert builder.runs == 3
    install._cached("thing", "1", "b", builder)
    assert builder.runs == 4
    assert (cache / "thing-1" / "program").read_text() == "build 4"


def test_a_failed_build_leaves_nothing_and_is_tried_again(cache: Path) -> None:
    """After a build that fails half-way, read-only folders and all, there is no folder to mistake for a whole one."""

    def fail(product: Path, log: Path) -> None:
        closed = product / "closed"
        closed.mkdir()
        (closed / "half").write_text("half")
        closed.chmod(stat.S_IRUSR | stat.S_IXUSR)
        raise ServiceError("the compiler said no")

    with pytest.raises(ServiceError, match="the compiler said no"):
        install._cached("thing", "1", "a", fail)
    assert [path.name for path in cache.iterdir() if path.is_dir()] == []
    builder = Builder()
    install._cached("thing", "1", "a", builder)
    assert builder.runs == 1


def test_two_at_once_build_once() -> None:
    """Of two requests at the same time one builds and the other waits for it."""
    started, go_on = threading.Event(), threading.Event()
    runs: list[int] = []

    def slow(product: Path, log: Path) -> None:
        runs.append(1)
        started.set()
        assert go_on.wait(10)
        (product / "program").write_text("built")

    threads = [threading.Thread(target=install._cached, args=("thing", "1", "a", slow)) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert started.wait(10)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert runs == [1]


def test_everything_missing_is_named_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Go and Rust the error names both, what to install, and the way without them."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"(?s)InfluxDB 2\.7\.12.*go: Go 1\..*cargo: Rust.*docker compose up"):
        install.influxd_program()


def test_missing_java_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without Java the error says which version Kafka needs."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MissingToolError, match=r"(?s)java: Java 17.*docker compose up"):
        install.kafka_jars()


def test_a_missing_package_is_named_to_a_plain_user(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user who may not install packages is told which one to ask for."""
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    with pytest.raises(MissingToolError, match=r"no-such-broker: install the package some-broker"):
        toolchain.ensure_debian_packages("The MQTT broker", {"no-such-broker": "some-broker"})


def test_a_failing_command_shows_the_end_of_its_log(tmp_path: Path) -> None:
    """The error of a failed build holds its exit code and its last lines."""
    with pytest.raises(ServiceError, match=r"(?s)building failed with exit code 3.*line 99"):
        toolchain.run_visibly(
            "building", ["sh", "-c", "for i in $(seq 99); do echo line $i; done; exit 3"], log=tmp_path / "log"
        )


@pytest.mark.parametrize("asked_before", [False, True], ids=["no .rustup", "an empty .rustup that a proxy made"])
def test_rust_is_found_under_another_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked_before: bool) -> None:
    """With HOME elsewhere, rustup's toolchains are found beside the cargo on PATH, and an installed one is chosen."""
    if asked_before:
        (tmp_path / "fresh" / ".rustup").mkdir(parents=True)
    owner = tmp_path / "owner"
    (owner / ".rustup").mkdir(parents=True)
    programs = owner / ".cargo" / "bin"
    programs.mkdir(parents=True)
    listing = '#!/bin/sh\n[ "$RUSTUP_HOME" = "%s" ] || exit 1\necho "nightly-x"\necho "1.95.0-x"\n' % (
        owner / ".rustup"
    )
    for name, text in (("cargo", "#!/bin/sh\n"), ("rustup", listing)):
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    monkeypatch.setenv("HOME", str(tmp_path / "fresh"))
    for name in ("RUSTUP_HOME", "CARGO_HOME", "RUSTUP_TOOLCHAIN"):
        monkeypatch.delenv(name, raising=False)
    assert toolchain.rust_environment() == {
        "RUSTUP_HOME": str(owner / ".rustup"),
        "CARGO_HOME": str(owner / ".cargo"),
        "RUSTUP_TOOLCHAIN": "1.95.0-x",
    }
    monkeypatch.setenv("HOME", str(owner))
    monkeypatch.setenv("RUSTUP_HOME", str(owner / ".rustup"))
    assert toolchain.rust_environment() == {"RUSTUP_TOOLCHAIN": "1.95.0-x"}
