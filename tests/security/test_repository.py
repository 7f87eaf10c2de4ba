"""No secret is in the repository."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PATTERNS = {
    "private key": rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s*\n?[A-Za-z0-9+/=]{16}",
    "AWS key": rb"\bAKIA[0-9A-Z]{16}\b",
    "GitHub token": rb"\bgh[pousr]_[A-Za-z0-9]{36}\b",
    "Slack token": rb"\bxox[baprs]-[A-Za-z0-9-]{10,}",
    "InfluxDB token": rb"(?<![A-Za-z0-9_/+-])[A-Za-z0-9_-]{86}==",
    "JSON web token": rb"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.",
    "password in a URL": rb"[a-z]+://[^/\s:@\"'{}$<>]+:[^/\s:@\"'{}$<>]{3,}@",
    "password in a setting": rb"(?im)^\s*[a-z_.]*(?:password|token|secret)\s*[=:]\s*[A-Za-z0-9+/_-]{20,}\s*$",
}


def tracked() -> list[Path]:
    """Every file in version control."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    assert len(files) > 200
    return [file for file in files if file.is_file()]


def found_in(content: bytes) -> list[str]:
    """Kinds of secrets in a file."""
    return [kind for kind, pattern in PATTERNS.items() if re.search(pattern, content)]


def test_no_tracked_file_holds_a_secret() -> None:
    """No file in version control looks like, or contains, a private key, a token or a password."""
    suspicious = {str(path.relative_to(ROOT)): kinds for path in tracked() if (kinds := found_in(path.read_bytes()))}
    assert suspicious == {}
    assert [path for path in tracked() if path.suffix in (".key", ".p12", ".pfx", ".jks") or path.name == ".env"] == []


@pytest.mark.parametrize("file", ["certs/ca.key", "certs/kafka.pem", "secrets/kafka/twin-sink", "here/own.key", ".env"])
def test_what_security_md_makes_is_neither_committed_nor_sent_to_a_build(file: str) -> None:
    """Keys and passwords at the places that SECURITY.md names are ignored by git, and by `COPY . .` of the image."""
    assert subprocess.run(["git", "check-ignore", "--quiet", file], cwd=ROOT, check=False).returncode == 0
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {file.partition("/")[0], f"**/*{Path(file).suffix}"} & set(ignored)


@pytest.mark.parametrize(
    "secret",
    [
        "-----BEGIN " + "PRIVATE KEY-----\nMIGHAgEAMBMGByqGSM49AgEG",
        "AKIA" + "ABCDEFGHIJKLMNOP",
        "ghp_" + "a1" * 18,
        "xoxb-" + "1234567890-abc",
        "token: " + "Ab3_" * 21 + "xy" + "==",
        "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0" + ".x",
        "https://user:" + "hunter22" + "@host/",
        "influx_token = " + "k9" * 20,
    ],
)
def test_the_search_finds_each_kind(secret: str) -> None:
    """Each pattern finds what it is for; a search that finds nothing proves nothing."""
    assert found_in(f"before\n{secret}\nafter\n".encode())
