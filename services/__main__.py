"""`python -m services`: install the services, or run them in the foreground without the rest of the system."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from services.errors import ServiceError
from services.install import influxd_program, mosquitto_program
from services.kafka_classes import keep_classes
from services.processes import set_at_signals
from services.stack import Stack

NAMES = ("kafka", "influxdb", "mosquitto")


def main() -> int:
    """Run the command line; returns the exit code."""
    arguments = _parser().parse_args()
    try:
        if arguments.command == "install":
            mosquitto_program()
            keep_classes()
            influxd_program()
        else:
            _run(arguments)
    except ServiceError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m services", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("install", help="fetch and build what is missing (about 5 minutes the first time)")
    run = commands.add_parser("run", help="start the services; they stop at SIGTERM or Ctrl-C")
    run.add_argument("--dir", type=Path, required=True, help="folder for data, logs and the file `env`")
    run.add_argument("--only", default=",".join(NAMES), help="comma-separated subset of " + ",".join(NAMES))
    for name in NAMES:
        run.add_argument(f"--{name}-port", type=int, default=None, help="default: any free port")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    done = threading.Event()
    set_at_signals(done)
    only = arguments.only.split(",")
    ports = {name: getattr(arguments, f"{name}_port") for name in NAMES if getattr(arguments, f"{name}_port")}
    directory: Path = arguments.dir
    directory.mkdir(parents=True, exist_ok=True)
    env_file = directory / "env"
    env_file.unlink(missing_ok=True)
    with Stack(directory, "kafka" in only, "influxdb" in only, "mosquitto" in only, ports) as stack:
        write_env(env_file, stack.env)
        print(f"ready; addresses in {env_file}", flush=True)
        done.wait()
    env_file.unlink(missing_ok=True)


def write_env(path: Path, env: dict[str, str]) -> None:
    """Write KEY=value lines, readable by the owner only (there is a token in them), in one step."""
    temporary = path.with_suffix(".new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.writelines(f"{key}={value}\n" for key, value in env.items())
    temporary.replace(path)


if __name__ == "__main__":
    sys.exit(main())
