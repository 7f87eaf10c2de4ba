"""Find the tools the services are built with, name exactly what is missing, and run long builds visibly.

Knows about programs on PATH, Debian packages and the Rust toolchain; not about what is built with them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from services.errors import MissingToolError, ServiceError

DOCKER_HINT = "Or run the whole system in Docker instead: docker compose up"
PROGRESS_EVERY_S = 15.0
LOG_TAIL_LINES = 30
POLICY_RC_D = Path("/usr/sbin/policy-rc.d")


def cache_dir() -> Path:
    """Return the folder in which everything built is kept, once per user and machine."""
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    path = Path(root) / "process-twin"
    path.mkdir(parents=True, exist_ok=True)
    return path


def say(text: str) -> None:
    """Print one line of progress to standard error, where it does not mix with a command's output."""
    print(text, file=sys.stderr, flush=True)


def find_program(name: str) -> str | None:
    """Return the path of a program on PATH or in the system folders a plain user's PATH leaves out."""
    return shutil.which(name) or shutil.which(name, path="/usr/local/sbin:/usr/sbin:/sbin")


def require_programs(purpose: str, programs: Mapping[str, str]) -> None:
    """Check that all programs (name → what to install for it) are there.

    Raises MissingToolError that names every missing one at once, and the way without them.
    """
    missing = [f"  {name}: {hint}" for name, hint in programs.items() if find_program(name) is None]
    if missing:
        raise MissingToolError(
            f"{purpose} needs programs that are not installed:\n" + "\n".join(missing) + f"\n{DOCKER_HINT}"
        )


def ensure_debian_packages(purpose: str, programs: Mapping[str, str]) -> None:
    """Install the Debian packages (program → package) whose programs are missing, when we may.

    Raises MissingToolError where we are not root or there is no apt; ServiceError where apt fails.
    """
    packages = [package for name, package in programs.items() if find_program(name) is None]
    if not packages:
        return
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        hints = {
            name: f"install the package {package}, for example: sudo apt-get install {package}"
            for name, package in programs.items()
        }
        require_programs(purpose, hints)
    say(f"{purpose}: installing Debian packages {' '.join(packages)}")
    log = cache_dir() / "apt.log"
    env = {"DEBIAN_FRONTEND": "noninteractive"}
    with _NoServiceStart():
        run_visibly("apt-get update", ["apt-get", "update"], log=log, env=env)
        install = ["apt-get", "-o", "DPkg::Lock::Timeout=300", "install", "-y", "--no-install-recommends", *packages]
        run_visibly("apt-get install", install, log=log, env=env)
    require_programs(purpose, programs)


class _NoServiceStart:
    """While active, Debian's packages do not start their daemons: we start our own, with our settings."""

    def __enter__(self) -> None:
        self._ours = not POLICY_RC_D.exists()
        if self._ours:
            POLICY_RC_D.write_text("#!/bin/sh\nexit 101\n")
            POLICY_RC_D.chmod(0o755)

    def __exit__(self, *_: object) -> None:
        if self._ours:
            POLICY_RC_D.unlink(missing_ok=True)


def run_visibly(
    title: str, argv: Sequence[str], *, log: Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> None:
    """Run a command with its output in `log`, telling every 15 s that it still runs.

    Raises ServiceError with the last lines of the log when the command fails.
    """
    started = time.monotonic()
    say(f"{title} …")
    with log.open("ab") as out:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env={**os.environ, **(env or {})},
        )
        while True:
            try:
                code = process.wait(PROGRESS_EVERY_S)
                break
            except subprocess.TimeoutExpired:
                say(f"{title} … {time.monotonic() - started:.0f} s")
            except BaseException:
                process.kill()
                process.wait()
                raise
    if code != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:])
        raise ServiceError(f"{title} failed with exit code {code}; the end of {log}:\n{tail}\n{DOCKER_HINT}")
    say(f"{title}: done in {time.monotonic() - started:.0f} s")


def rust_environment() -> dict[str, str]:
    """Return the variables that make cargo work also when HOME is not the one rustup was installed under.

    cargo and rustc on PATH may be rustup's proxies, which look for toolchains in $HOME/.rustup. With another HOME
    the toolchains are found beside the proxies instead: <home>/.cargo/bin/cargo has <home>/.rustup.
    """
    env: dict[str, str] = {}
    cargo = shutil.which("cargo")
    if cargo is None:
        return env
    cargo_home = Path(cargo).absolute().parent.parent
    rustup_home = cargo_home.parent / ".rustup"
    # The folder alone says nothing: a proxy that was asked for its version makes an empty one (pip asks).
    own = Path.home() / ".rustup" / "toolchains"
    if "RUSTUP_HOME" not in os.environ and not own.is_dir() and rustup_home.is_dir():
        env["RUSTUP_HOME"] = str(rustup_home)
        # The registry cache beside it is used too, where we may write to it; else cargo's own default applies.
        if "CARGO_HOME" not in os.environ and os.access(cargo_home, os.W_OK):
            env["CARGO_HOME"] = str(cargo_home)
    toolchain = _active_toolchain(env)
    if toolchain is not None:
        # A project that pins a toolchain which is not installed is built with the installed one instead.
        env["RUSTUP_TOOLCHAIN"] = toolchain
    return env


def _active_toolchain(env: Mapping[str, str]) -> str | None:
    rustup = shutil.which("rustup")
    if rustup is None:
        return None
    if "RUSTUP_TOOLCHAIN" in os.environ:
        return os.environ["RUSTUP_TOOLCHAIN"]
    listed = subprocess.run(
        [rustup, "toolchain", "list"], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    names = [line.split()[0] for line in listed.stdout.splitlines() if line[:1].isalnum()]
    default = [line.split()[0] for line in listed.stdout.splitlines() if "default" in line]
    stable = [name for name in names if not name.startswith(("nightly", "beta"))]
    found = [name for name in (*default, *stable) if name in names]
    return found[0] if found else None


def rust_version(env: Mapping[str, str]) -> tuple[int, int]:
    """Return the (major, minor) version of the Rust compiler that `env` selects; (0, 0) when it does not run."""
    shown = subprocess.run(
        ["rustc", "--version"], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    found = re.search(r"rustc (\d+)\.(\d+)", shown.stdout)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def java_major() -> int:
    """Return the major version of the `java` on PATH; 0 when it does not run."""
    shown = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False)
    found = re.search(r'version "(\d+)', shown.stderr + shown.stdout)
    return int(found[1]) if found else 0
