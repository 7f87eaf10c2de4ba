"""What we build on: locked with hashes, looked up for vulnerabilities without pretending, listed completely."""

import http.server
import json
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from services.processes import free_port
from tests.security.vulnerabilities import LOCK, canonical, locked

ROOT = LOCK.parent
VULNERABLE = "sample==1.0 --hash=sha256:" + "0" * 64 + "\nother==2.0 --hash=sha256:" + "1" * 64 + "\n"
ADVISORY = {
    "id": "GHSA-test",
    "summary": "s",
    "details": "d",
    "aliases": [],
    "modified": "2026-01-01T00:00:00Z",
    "published": "2026-01-01T00:00:00Z",
    "affected": [
        {
            "package": {"name": "sample", "ecosystem": "PyPI"},
            "ranges": [{"type": "ECOSYSTEM", "events": [{"introduced": "0"}, {"fixed": "1.1"}]}],
        }
    ],
}


@contextmanager
def osv(advisories: dict[str, list[object]]) -> Iterator[str]:
    """The URL of a service that speaks OSV's protocol and knows these advisories by package."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            body = json.dumps({"vulns": advisories.get(asked["package"]["name"], [])}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1/query"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def check(lock: Path, url: str, *options: str) -> subprocess.CompletedProcess[str]:
    """The check of `make check`, asking one service."""
    command = [sys.executable, "-m", "tests.security.vulnerabilities", "--lock", str(lock), "--osv-url", url, *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)


def test_a_known_vulnerability_fails_the_check(tmp_path: Path) -> None:
    """A locked version that an advisory names fails the check with its name, the advisory and the fixed version."""
    lock = tmp_path / "lock"
    lock.write_text(VULNERABLE)
    with osv({"sample": [ADVISORY]}) as url:
        done = check(lock, url)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "vulnerable: sample 1.0: GHSA-test, fixed in 1.1" in done.stdout
    assert "2 of 2 locked packages audited" in done.stdout


def test_a_clean_answer_passes_and_no_answer_is_never_called_clean(tmp_path: Path) -> None:
    """Without advisories the check passes; without a service it says NOT AUDITED, which is an error where it is
    required."""
    lock = tmp_path / "lock"
    lock.write_text(VULNERABLE)
    with osv({}) as url:
        clean = check(lock, url, "--required")
    assert (clean.returncode, "2 of 2 locked packages audited" in clean.stdout) == (0, True), clean.stderr
    nowhere = f"http://127.0.0.1:{free_port()}/v1/query"
    for options, code in (((), 0), (("--required",), 2)):
        silent = check(lock, nowhere, *options)
        assert silent.returncode == code
        assert "0 of 2 locked packages audited" in silent.stdout
        assert silent.stdout.splitlines()[-1].startswith("NOT AUDITED")


def test_every_locked_package_has_hashes() -> None:
    """No package is installed whose file was not pinned by hash."""
    entries = LOCK.read_text().replace("\\\n", " ").splitlines()
    pinned = [line for line in entries if line and not line.startswith((" ", "#"))]
    assert len(pinned) == len(locked(LOCK)) > 50
    assert all("--hash=sha256:" in line for line in pinned)


def test_the_bill_of_materials_is_complete(tmp_path: Path) -> None:
    """`make sbom`'s command lists every locked package with version, package URL and hashes, and names us."""
    line = next(part for part in (ROOT / "Makefile").read_text().split("\n\n") if part.startswith("sbom:"))
    assert "cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible --of JSON" in line
    file = tmp_path / "sbom.json"
    command = [
        str(Path(sys.executable).with_name("cyclonedx-py")), "requirements", "--pyproject", "pyproject.toml",
        "--output-reproducible", "--of", "JSON", "--output-file", str(file), "requirements.lock",
    ]  # fmt: skip
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    made = json.loads(file.read_text())
    assert made["bomFormat"] == "CycloneDX"
    assert made["metadata"]["component"]["name"] == "process-twin"
    listed = {(canonical(one["name"]), one["version"]) for one in made["components"]}
    assert listed == locked(LOCK)
    for one in made["components"]:
        assert one["purl"].startswith("pkg:pypi/")
        references = one.get("externalReferences", [])
        assert one.get("hashes") or any(reference.get("hashes") for reference in references), one["name"]


@pytest.mark.parametrize("folder", ["deploy", "docker-compose.yml", "Dockerfile", "Makefile"])
def test_images_and_installs_are_not_floating(folder: str) -> None:
    """No image is taken as `latest`, and nothing is installed without its hash: not what builds this project either."""
    path = ROOT / folder
    for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
        text = file.read_text().replace("\\\n", " ")
        assert ":latest" not in text, file
        for line in (line for line in text.splitlines() if "pip install" in line):
            assert "--require-hashes" in line or {"--no-deps", "--no-build-isolation"} <= set(line.split()), line


def test_what_builds_this_project_is_locked() -> None:
    """The lock has the setuptools that the build asks for; without isolation it is the one that builds."""
    wanted = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    versions = dict(locked(LOCK))
    assert wanted == ["setuptools>=77"]
    assert int(versions["setuptools"].partition(".")[0]) >= 77
