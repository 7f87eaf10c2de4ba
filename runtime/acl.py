"""Who may do what in Kafka: `acl.toml` read, compared with a cluster, and applied to it."""

import os
import secrets
import time
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from confluent_kafka import KafkaError, KafkaException
from confluent_kafka.admin import (
    AclBinding,
    AclBindingFilter,
    AclOperation,
    AclPermissionType,
    AdminClient,
    ResourcePatternType,
    ResourceType,
    ScramCredentialInfo,
    ScramMechanism,
    UserScramCredentialUpsertion,
)

from schemas.topics import user_id

FILE = Path(__file__).with_name("acl.toml")
#: Right in the file → Kafka's operations and the kind of resource.
RIGHTS = {
    "read": (("Read",), "topic"),
    "write": (("Write",), "topic"),
    "create": (("Create", "Describe"), "topic"),
    "follow": (("Read",), "topic"),
    "own": (("Create", "Read", "Write"), "topic"),
    "see": (("Read",), "topic"),
    "group": (("Read",), "group"),
    "describe_group": (("Describe",), "group"),
}
#: For topics that are the same whatever generation is at work.
OF_ALL_GENERATIONS = ("follow", "own", "see")
PASSWORD_BYTES = 32
ITERATIONS = 8192
POLL_S = 0.05


@dataclass(frozen=True, slots=True, order=True)
class Right:
    """One line of the list: this user may do this to this topic or group, from any host.

    `pattern` prefixed: to all whose names begin with `name`.
    """

    user: str
    operation: str  # Read, Write, Create, Describe
    resource: str  # topic or group
    name: str
    pattern: str = "literal"

    def command(self) -> str:
        """As an argument list of Kafka's own tool."""
        named = f"--{self.resource} {self.name} --resource-pattern-type {self.pattern}"
        return f"--add --allow-principal User:{self.user} --operation {self.operation} {named}"


def roles() -> dict[str, dict[str, list[str]]]:
    """The file, role by role."""
    found: dict[str, dict[str, list[str]]] = tomllib.loads(FILE.read_text("utf-8"))
    for role, rights in found.items():
        if unknown := rights.keys() - RIGHTS.keys():
            raise ValueError(f"{FILE}: {role}: {sorted(unknown)}; allowed are {', '.join(RIGHTS)}")
    return found


def rights(prefix: str, also: Iterable[str] = ()) -> list[Right]:
    """Every right of every role, on the topics of `prefix` and of its other generations, whose prefixes are `also`."""
    return sorted(
        {
            _named(Right(user_id(role, prefix), operation, RIGHTS[key][1], name.format(prefix=of)))
            for role, lists in roles().items()
            for key, names in lists.items()
            for name in names
            for operation in RIGHTS[key][0]
            for of in ((prefix,) if key in OF_ALL_GENERATIONS else (prefix, *also))
        }
    )


def _named(right: Right) -> Right:
    """A * at the end of a name in the file is a pattern in Kafka."""
    if not right.name.endswith("*"):
        return right
    return replace(right, name=right.name.removesuffix("*"), pattern="prefixed")


def in_use(admin: AdminClient, prefix: str, timeout_s: float = 30.0) -> bool:
    """Whether this cluster asks our users for rights. Raises KafkaException."""
    try:
        return any(_rules_of(admin, user_id("sink", prefix), timeout_s))
    except KafkaException as error:
        if error.args[0].name() == "SECURITY_DISABLED":
            return False
        raise


def apply(
    admin: AdminClient, prefix: str, timeout_s: float = 30.0, also: Iterable[str] = ()
) -> tuple[list[Right], list[Right]]:
    """Give our users exactly the rights of the file; returns what was added and what was taken away. `also`: `rights`.

    Only rules for our own users are touched. What they have beyond the file is taken away, be it from an older version
    of the file or given by hand. Raises KafkaException.
    """
    wanted = {binding_of(right): right for right in rights(prefix, also)}
    existing = _existing(admin, prefix, timeout_s)
    missing = [binding for binding in wanted if binding not in existing]
    surplus = [binding for binding in existing if binding not in wanted]
    # First add, then take away: who is renamed in the file never stands without a right in between.
    for future in admin.create_acls(missing, request_timeout=timeout_s).values() if missing else ():
        future.result()
    unwanted = [exactly(binding) for binding in surplus]
    for future in admin.delete_acls(unwanted, request_timeout=timeout_s).values() if unwanted else ():
        future.result()
    end_s = time.monotonic() + timeout_s
    # The controller has them now; a broker may take a moment, and who starts a process next relies on them.
    while set(_existing(admin, prefix, timeout_s)) != wanted.keys():
        if time.monotonic() > end_s:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT, "the rules are given, but the broker has them not"))
        time.sleep(POLL_S)
    return sorted(wanted[b] for b in missing), sorted(map(_right, surplus))


def _existing(admin: AdminClient, prefix: str, timeout_s: float) -> list[Any]:
    return [rule for role in roles() for rule in _rules_of(admin, user_id(role, prefix), timeout_s)]


def set_passwords(admin: AdminClient, prefix: str, folder: Path, timeout_s: float = 30.0) -> list[str]:
    """Make our users with the passwords in `folder`/USER; new ones, for their owner's eyes only, where there are none.

    Returns the users. A password that is there is used as it is, so this can be repeated and a password be changed.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    users = [user_id(role, prefix) for role in roles()]
    info = ScramCredentialInfo(ScramMechanism.SCRAM_SHA_512, ITERATIONS)
    wanted = [UserScramCredentialUpsertion(user, info, _password(folder / user).encode()) for user in users]
    for future in admin.alter_user_scram_credentials(wanted, request_timeout=timeout_s).values():
        future.result()
    return users


def _password(path: Path) -> str:
    if not path.exists():
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(PASSWORD_BYTES) + "\n")
    return path.read_text("utf-8").strip()


def binding_of(right: Right) -> AclBinding:
    """A right as Kafka's client has it."""
    return AclBinding(
        ResourceType[right.resource.upper()],
        right.name,
        ResourcePatternType[right.pattern.upper()],
        f"User:{right.user}",
        "*",
        AclOperation[right.operation.upper()],
        AclPermissionType.ALLOW,
    )


def _rules_of(admin: AdminClient, user: str, timeout_s: float) -> Iterable[Any]:
    every = AclBindingFilter(
        ResourceType.ANY,
        None,
        ResourcePatternType.ANY,
        f"User:{user}",
        None,
        AclOperation.ANY,
        AclPermissionType.ANY,
    )
    found: Iterable[Any] = admin.describe_acls(every, request_timeout=timeout_s).result()
    return found


def exactly(binding: Any) -> AclBindingFilter:
    """The filter that finds this rule and no other."""
    return AclBindingFilter(
        binding.restype,
        binding.name,
        binding.resource_pattern_type,
        binding.principal,
        binding.host,
        binding.operation,
        binding.permission_type,
    )


def _right(binding: Any) -> Right:
    operation = binding.operation.name.replace("_", " ").title().replace(" ", "")
    kind = binding.restype.name.lower()
    if binding.permission_type is AclPermissionType.DENY:
        operation = f"Deny{operation}"
    pattern = binding.resource_pattern_type.name.lower()
    return Right(binding.principal.removeprefix("User:"), operation, kind, binding.name, pattern)
