"""`twin acl`: the least rights of every process in Kafka, shown or applied."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from cli.common import (
    DEFAULT_RUN_DIR,
    ConfigOption,
    RunDirOption,
    configuration,
    err,
    one_line_errors,
    out,
    use_environment_of,
)
from runtime import acl as rules
from runtime import exit_codes
from runtime.generations import PlanError, newest
from runtime.kafka import client_settings


def acl(
    config: ConfigOption = None,
    run_dir: RunDirOption = DEFAULT_RUN_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object per right.")] = False,
    apply: Annotated[bool, typer.Option("--apply", help="Make Kafka agree, as KAFKA_USERNAME.")] = False,
    passwords: Annotated[
        Path | None,
        typer.Option(help="With --apply: also make the users, each with the password in FOLDER/USER, made if absent."),
    ] = None,
) -> None:
    """Show who may do what in Kafka, as arguments of kafka-acls.sh; --apply gives our users exactly these rights."""
    kafka = configuration(config, None).kafka
    if passwords is not None and not apply:
        err.print("--passwords needs --apply")
        raise typer.Exit(exit_codes.FAILED)
    if not apply:
        for right in rules.rights(kafka.prefix):
            typer.echo(json.dumps(asdict(right)) if as_json else right.command())
        return
    use_environment_of(run_dir)
    with one_line_errors(KafkaException, OSError, PlanError):
        admin = AdminClient(client_settings(kafka))
        if passwords is not None:
            users = rules.set_passwords(admin, kafka.prefix, passwords)
            out.print(f"{len(users)} users have the passwords in {passwords}", markup=False, highlight=False)
        plan = newest(kafka)
        added, removed = rules.apply(admin, kafka.prefix, also=() if plan is None else plan.prefixes() - {kafka.prefix})
    for right in removed:
        out.print(f"taken away: {right.user} {right.operation} {right.resource} {right.name}", markup=False)
    out.print(f"{len(added)} rights added, {len(removed)} taken away ({kafka.address})", highlight=False)
