"""`python -m tests.security.vulnerabilities`: known vulnerabilities of what is locked, by pip-audit.

pip-audit alone would say "no known vulnerabilities" of packages that it could not ask about. This counts them: every
package of the lock is either audited, or named as not audited. OSV is asked first, then PyPI. The exit code is 1 where
a vulnerability is known. Where no service answers the code is 0, so that work offline goes on, but the last line says
NOT AUDITED; with --required that is an error, too (code 2), which is what a release needs.
"""

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

LOCK = Path(__file__).parents[2] / "requirements.lock"
SERVICES = (("osv",), ("pypi",))
TIMEOUT_S = 300.0
_PINNED = re.compile(r"^([A-Za-z0-9][A-Za-z0-9._-]*)==([^ ;\\]+)", re.MULTILINE)


Pinned = tuple[str, str]


@dataclass(slots=True)
class Found:
    """What is known of the lock's packages: those audited, and lines about vulnerabilities."""

    audited: set[Pinned] = field(default_factory=set)
    vulnerable: set[str] = field(default_factory=set)
    failures: list[str] = field(default_factory=list)


def canonical(name: str) -> str:
    """A package's name as PyPI compares it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def locked(lock: Path) -> set[Pinned]:
    """Name and version of every package in a lock, whatever Python or platform it is for."""
    return {(canonical(name), version) for name, version in _PINNED.findall(lock.read_text("utf-8"))}


def ask(lock: Path, service: Sequence[str], found: Found) -> None:
    """Let pip-audit ask one service, and add what it learned."""
    command = [
        sys.executable, "-m", "pip_audit", "--requirement", str(lock), "--disable-pip", "--require-hashes",
        "--progress-spinner", "off", "--format", "json", "--vulnerability-service", *service,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
        answers = json.loads(done.stdout)["dependencies"]
    except subprocess.TimeoutExpired:
        found.failures.append(f"{service[0]}: no answer in {TIMEOUT_S:.0f} s")
        return
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        found.failures.append(f"{service[0]}: {last[:200]}")
        return
    for answer in answers:
        if "skip_reason" in answer:
            continue
        found.audited.add((canonical(answer["name"]), answer["version"]))
        for vulnerability in answer["vulns"]:
            fixed = ", ".join(vulnerability["fix_versions"]) or "none"
            found.vulnerable.add(f"{answer['name']} {answer['version']}: {vulnerability['id']}, fixed in {fixed}")


def audit(lock: Path, services: Sequence[Sequence[str]] = SERVICES) -> Found:
    """Ask the services in turn until every package that applies to this platform was audited."""
    found = Found()
    for service in services:
        ask(lock, service, found)
        if found.audited:
            break  # it answers; who is not in its answer is for another platform
    return found


def report(lock: Path, found: Found, required: bool) -> int:
    """Print what was found; the exit code."""
    wanted = locked(lock)
    missing = [f"{name} {version}" for name, version in sorted(wanted - found.audited)]
    for line in sorted(found.vulnerable):
        print(f"vulnerable: {line}")
    for line in found.failures:
        print(f"could not be asked: {line}")
    print(f"{len(wanted & found.audited)} of {len(wanted)} locked packages audited")
    if found.vulnerable:
        return 1
    if not found.audited:
        print("NOT AUDITED: no vulnerability service answered; nothing is known about these packages")
        return 2 if required else 0
    if missing:
        print(f"not audited, as they are not for this platform or unknown to the service: {', '.join(missing)}")
    return 0


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--required", action="store_true", help="no answer is an error")
    parser.add_argument("--lock", type=Path, default=LOCK)
    parser.add_argument("--osv-url", help="ask this OSV service and no other")
    options = parser.parse_args()
    services = SERVICES if options.osv_url is None else (("osv", "--osv-url", options.osv_url),)
    return report(options.lock, audit(options.lock, services), options.required)


if __name__ == "__main__":
    sys.exit(main())
