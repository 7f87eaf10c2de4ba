"""Fetch or build Kafka, InfluxDB and mosquitto once per machine, into the user's cache folder.

Everything built carries a stamp (version, recipe, platform, size) that is checked before reuse; it is built in a
temporary folder and moved into place at the end, under a lock, so that neither a broken build nor two builds at
once leave something half-made. Knows how each is built; not how it is run.
"""

from __future__ import annotations

import fcntl
import json
import platform
import shutil
import stat
import subprocess
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from services.errors import MissingToolError, ServiceError
from services.toolchain import (
    DOCKER_HINT,
    cache_dir,
    ensure_debian_packages,
    find_program,
    java_major,
    require_programs,
    run_visibly,
    rust_environment,
    rust_version,
    say,
)

KAFKA_VERSION = "4.1.0"
INFLUXDB_VERSION = "2.7.12"
PKG_CONFIG_VERSION = "0.2.7"
LOG4J_VERSION = "2.24.3"
JAVA_MAJOR = 17
RUST_MINIMUM = (1, 72)

_POM = f"""<project xmlns="http://maven.apache.org/POM/4.0.0">
  <modelVersion>4.0.0</modelVersion>
  <groupId>process-twin</groupId><artifactId>kafka-jars</artifactId><version>1</version>
  <packaging>pom</packaging>
  <dependencies>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka_2.13</artifactId>
      <version>{KAFKA_VERSION}</version></dependency>
    <dependency><groupId>org.apache.kafka</groupId><artifactId>kafka-tools</artifactId>
      <version>{KAFKA_VERSION}</version></dependency>
    <dependency><groupId>org.apache.logging.log4j</groupId><artifactId>log4j-slf4j-impl</artifactId>
      <version>{LOG4J_VERSION}</version></dependency>
  </dependencies>
</project>
"""

# InfluxDB's Rust part denies warnings, and newer compilers know more of them.
_RUSTC_WRAPPER = '#!/bin/sh\nexec "$@" --cap-lints warn\n'


def kafka_jars() -> Path:
    """Return the folder that holds Kafka's jars, fetching them with Maven the first time (54 MB, about 10 s).

    Raises MissingToolError without Java 17 or Maven, ServiceError when the download fails.
    """
    require_programs(
        f"Kafka {KAFKA_VERSION}", {"java": f"Java {JAVA_MAJOR} or newer, for example openjdk-17-jre-headless"}
    )
    if java_major() < JAVA_MAJOR:
        raise MissingToolError(f"Kafka needs Java {JAVA_MAJOR} or newer; `java` is {java_major()}.\n{DOCKER_HINT}")
    return _cached("kafka", KAFKA_VERSION, "1", _fetch_kafka)


def kafka_classes() -> Path | None:
    """Return where Kafka's classes are kept as the JVM has parsed them (see `services.kafka_classes`), if they are.

    Its name has the file's size: the JVM crashes on one that was cut off.
    """
    kept = cache_dir().glob(f"{kafka_classes_name()}-*.jsa")
    return next((path for path in kept if path.stem.endswith(f"-{path.stat().st_size}")), None)


def kafka_classes_name() -> str:
    """What that file's name begins with; bound to this Java and these jars where they are: others do not take it."""
    java, jars = Path(find_program("java") or "java").resolve(), kafka_jars()
    made_of = f"{java} {java.stat().st_mtime_ns} {jars} {(jars / 'stamp.json').stat().st_mtime_ns}"
    return f"kafka-{KAFKA_VERSION}-classes-{zlib.crc32(made_of.encode()):08x}"


def influxd_program() -> Path:
    """Return the path of influxd, building it the first time (about 5 minutes).

    Raises MissingToolError that names the missing compilers, ServiceError when the build fails.
    """
    return _cached("influxdb", INFLUXDB_VERSION, "1", _build_influxdb) / "influxd"


def mosquitto_program() -> Path:
    """Return the path of mosquitto, installing the Debian package when we are root and it is missing.

    Raises MissingToolError where it can be neither found nor installed.
    """
    ensure_debian_packages("The MQTT broker", {"mosquitto": "mosquitto"})
    found = find_program("mosquitto")
    if found is None:
        raise ServiceError("mosquitto was installed but is not on PATH")
    return Path(found)


def compose_command() -> list[str]:
    """Return the command of Docker Compose; as root, Debian's docker-compose is installed where there is none.

    Raises MissingToolError where it can be neither found nor installed. No Docker engine is needed to check a file.
    """
    if find_program("docker-compose") is None and _docker_has_compose():
        return ["docker", "compose"]
    ensure_debian_packages("Checking docker-compose.yml", {"docker-compose": "docker-compose"})
    return ["docker-compose"]


def _docker_has_compose() -> bool:
    if find_program("docker") is None:
        return False
    return subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode == 0


def _cached(name: str, version: str, recipe: str, build: Callable[[Path, Path], None]) -> Path:
    """Return the folder of a component; `build(folder, log)` fills a temporary one when there is none to reuse."""
    target = cache_dir() / f"{name}-{version}"
    with _lock(name):
        if _is_intact(target, version, recipe):
            return target
        log = cache_dir() / f"{name}-{version}.log"
        log.unlink(missing_ok=True)
        work = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=cache_dir()))
        try:
            product = work / "product"
            product.mkdir()
            build(product, log)
            stamp = _stamp(product, version, recipe)
            (product / "stamp.json").write_text(json.dumps(stamp))
            _remove(target)
            product.rename(target)
        finally:
            _remove(work)
    return target


@contextmanager
def _lock(name: str) -> Iterator[None]:
    with (cache_dir() / f"{name}.lock").open("w") as handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{name}: another process is installing it; waiting")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _stamp(folder: Path, version: str, recipe: str) -> dict[str, str | int]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "stamp.json"]
    return {
        "version": version,
        "recipe": recipe,
        "platform": f"{platform.system()}-{platform.machine()}",
        "files": len(files),
        "bytes": sum(path.stat().st_size for path in files),
    }


def _is_intact(folder: Path, version: str, recipe: str) -> bool:
    try:
        written = json.loads((folder / "stamp.json").read_text())
    except (OSError, ValueError):
        return False
    return bool(written == _stamp(folder, version, recipe))


def _remove(folder: Path) -> None:
    """Remove a folder also when it holds read-only folders, as Go's module cache does."""
    if not folder.exists():
        return
    for path in folder.rglob("*"):
        if path.is_dir() and not path.is_symlink():
            path.chmod(path.stat().st_mode | stat.S_IWUSR)
    shutil.rmtree(folder)


def _fetch_kafka(product: Path, log: Path) -> None:
    require_programs(f"Fetching Kafka {KAFKA_VERSION}", {"mvn": "Apache Maven 3.6 or newer, for example maven"})
    pom = product.parent / "pom.xml"
    pom.write_text(_POM)
    copy = ["mvn", "-B", "-q", "-f", str(pom), "dependency:copy-dependencies", f"-DoutputDirectory={product}"]
    run_visibly(f"fetching Kafka {KAFKA_VERSION} with Maven", copy, log=log, cwd=product.parent)
    if not list(product.glob(f"kafka_2.13-{KAFKA_VERSION}.jar")):
        raise ServiceError(f"Maven brought no Kafka jar; see {log}")


def _build_influxdb(product: Path, log: Path) -> None:
    require_programs(
        f"Building InfluxDB {INFLUXDB_VERSION}",
        {
            "go": "Go 1.22 or newer",
            "cargo": f"Rust {RUST_MINIMUM[0]}.{RUST_MINIMUM[1]} or newer (cargo and rustc)",
            "rustc": f"Rust {RUST_MINIMUM[0]}.{RUST_MINIMUM[1]} or newer (cargo and rustc)",
        },
    )
    rust = rust_environment()
    if rust_version(rust) < RUST_MINIMUM:
        raise MissingToolError(
            f"InfluxDB needs Rust {RUST_MINIMUM[0]}.{RUST_MINIMUM[1]} or newer; `rustc --version` gives "
            f"{rust_version(rust)}.\n{DOCKER_HINT}"
        )
    ensure_debian_packages(
        "Building InfluxDB",
        {"clang": "clang", "protoc": "protobuf-compiler", "pkg-config": "pkg-config", "gcc": "gcc"},
    )
    work = product.parent
    wrapper = work / "rustc-wrapper"
    wrapper.write_text(_RUSTC_WRAPPER)
    wrapper.chmod(0o755)
    go = {**rust, "GOFLAGS": "-mod=mod -buildvcs=false", "GOBIN": str(work / "bin"), "CGO_ENABLED": "1"}
    helper = f"github.com/influxdata/pkg-config@v{PKG_CONFIG_VERSION}"
    run_visibly("InfluxDB: build helper", ["go", "install", helper], log=log, env=go, cwd=work)
    source = _influxdb_source(work, log, go)
    go |= {"PKG_CONFIG": str(work / "bin" / "pkg-config"), "RUSTC_WRAPPER": str(wrapper)}
    build = [
        "go", "build", "-tags", "sqlite_foreign_keys,sqlite_json",
        "-ldflags", f"-s -w -X main.version=v{INFLUXDB_VERSION}",
        "-o", str(product / "influxd"), "./cmd/influxd",
    ]  # fmt: skip
    title = f"building InfluxDB {INFLUXDB_VERSION} (once per machine, about 5 minutes)"
    run_visibly(title, build, log=log, env=go, cwd=source)


def _influxdb_source(work: Path, log: Path, env: dict[str, str]) -> Path:
    """Return a writable copy of InfluxDB's Go module: the build changes its go.sum."""
    module = f"github.com/influxdata/influxdb/v2@v{INFLUXDB_VERSION}"
    described = work / "module.json"
    fetch = ["sh", "-c", f"go mod download -json {module} > '{described}'"]
    run_visibly("InfluxDB: fetching the source", fetch, log=log, env=env, cwd=work)
    source = work / "source"
    shutil.copytree(json.loads(described.read_text())["Dir"], source)
    for path in source.rglob("*"):
        path.chmod(path.stat().st_mode | stat.S_IWUSR)
    source.chmod(source.stat().st_mode | stat.S_IWUSR)
    return source
