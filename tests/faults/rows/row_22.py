"""Row 22: OPC UA certificates that must not be accepted, and what it takes to be accepted again."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from connectors.browse import BrowseFailed, run_browse
from connectors.opcua_certificates import Refused, pin, pin_path
from schemas.frames import Frame
from schemas.topics import RAW
from services.certificates import Authority, Issued
from services.stack import Stack
from tests.connectors.opcua_server import URI
from tests.faults.opcua_field import FieldProcess
from tests.faults.rig import Rig
from tests.faults.system import OPCUA, System, running

TITLE = "OPC UA certificate expired, of another host, untrusted, rotated"
REFUSED_ATTEMPTS = 2
PATIENCE_S = 60.0


def run(rig: Rig) -> None:
    """Each is refused with a clear reason, nothing arrives, and it goes on when trust changes: in the same process."""
    folder = rig.folder / "certificates"
    settings = {"opcua": [{"id": OPCUA, "certificate_dir": str(folder / "connector")}]}
    with Stack(rig.folder / "services") as stack, running(rig, stack, settings, load=None) as system:
        authority = Authority.make(folder / "authority")
        servers = Servers(authority)
        with closing(FieldProcess(rig, system, assets=4, **servers.keys("first"))) as field:
            trouble = Trouble(rig, system, field, servers)
            pid = system.pid(OPCUA)
            trouble.strike()
            rig.require(system.pid(OPCUA) == pid, f"{OPCUA} was not started again")
            field.finish(rig, system)
            system.finish(told=True)


class Servers:
    """Certificates of servers, made when they are asked for."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._made: dict[str, Issued] = {}

    def issued(self, name: str, days: float = 100.0, host: str = "127.0.0.1") -> Issued:
        """Certificate and key of this name."""
        if name not in self._made:
            self._made[name] = self._authority.opcua(name, f"{URI}:server", [host], days)
        return self._made[name]

    def der(self, name: str) -> bytes:
        """The certificate as OPC UA has it."""
        return self.issued(name).certificate.with_suffix(".der").read_bytes()

    def keys(self, name: str) -> dict[str, str]:
        """Settings of a server with this certificate."""
        issued = self.issued(name)
        key = issued.key.with_name(f"{name}.key.pem")  # asyncua goes by how the name ends
        _replace(key, issued.key.read_bytes())
        return {"certificate": str(issued.certificate.with_suffix(".der")), "key": str(key)}


class Trouble:
    """One certificate after the other that is no good."""

    def __init__(self, rig: Rig, system: System, field: FieldProcess, servers: Servers) -> None:
        self.rig, self.system, self.field, self.servers = rig, system, field, servers
        self.config = next(o for o in system.plant.opcua if o.id == OPCUA)
        self.reasons: dict[str, str] = {}

    def strike(self) -> None:
        """The first is trusted by nobody yet; the others come in an order by the seed (short: three of them)."""
        self.refused("untrusted", "is not pinned", lambda: self.trust("first"), then=self.field.begin)
        others = {
            "rotated": self.rotated,
            "expired": self.expired,
            "another host's": self.another_hosts,
            "no security": self.no_security,
            "without the key": self.without_the_key,
            "our own expired": self.our_own_expired,
        }
        for name in self.rig.rng.sample(list(others), self.rig.times(full=len(others), short=3)):
            time.sleep(self.rig.times(full=10, short=1))
            others[name]()
        self.rig.note("reasons", self.reasons)

    def rotated(self) -> None:
        """The server has a new certificate and key; somebody looks at it and pins it."""
        self.serve(**self.servers.keys("second"))
        self.refused("rotated", "shows the certificate", lambda: self.trust("second"))

    def expired(self) -> None:
        """What was pinned has expired, and the server still shows it; then it is renewed, and pinned."""
        self.servers.issued("old", days=-1)
        self.serve(**self.servers.keys("old"))
        pin_path(self.config).write_bytes(self.servers.der("old"))  # it was pinned when it was valid

        def renew() -> None:
            try:
                pin(self.config, self.servers.der("old"))
                self.rig.require(False, "an expired certificate cannot be pinned")
            except Refused:
                pass
            self.servers.issued("renewed")
            self.serve(**self.servers.keys("renewed"))
            self.trust("renewed")

        self.refused("expired", "expired on", renew)

    def another_hosts(self) -> None:
        """A valid certificate of the same authority, pinned, but for another host."""
        self.servers.issued("other", host="other.example")
        elsewhere = self.config.model_copy(update={"url": "opc.tcp://other.example:4840"})
        pin(elsewhere, self.servers.der("other"))
        self.serve(**self.servers.keys("other"))

        def look() -> None:
            try:
                run_browse(self.config, trust=True)
                self.rig.require(False, "another host's certificate cannot be pinned for this one")
            except BrowseFailed as error:
                self.rig.require("names other.example, not 127.0.0.1" in str(error), f"the refusal names both: {error}")
            self.first_again()

        self.refused("another host's", "shows the certificate", look)

    def no_security(self) -> None:
        """A server that offers no encryption at all."""
        self.serve(certificate=None, key=None)
        self.refused("no security", "offers no endpoint", self.first_again)

    def without_the_key(self) -> None:
        """Somebody shows the pinned certificate and does not have its key."""
        self.first_again()
        self.system.wait_flowing(PATIENCE_S, record=False)
        self.serve(certificate=self.servers.keys("first")["certificate"], key=self.servers.keys("impostor")["key"])
        self.refused("without the key", ".", self.first_again)

    def our_own_expired(self) -> None:
        """Our own certificate has expired; it is deleted, as the reason says, and a new one is made."""
        self.first_again()
        self.system.wait_flowing(PATIENCE_S, record=False)
        folder = self.config.certificate_dir
        old = self.servers.issued("own", days=-1)
        _replace(folder / "own_key.pem", old.key.read_bytes())
        _replace(folder / "own_certificate.der", self.servers.der("own"))
        self.field.do("cut")

        def delete() -> None:
            for name in ("own_certificate.der", "own_key.pem"):
                (folder / name).unlink()

        self.refused("our own expired", "our own certificate .* expired", delete)

    def refused(
        self, name: str, pattern: str, repair: Callable[[], None], then: Callable[[], None] | None = None
    ) -> None:
        """See it refused, for a clear reason and more than once, and that nothing arrives; then repair."""
        system, began = self.system, self._attempts()
        self.rig.wait_for(
            lambda: system.trouble(OPCUA, pattern) and self._attempts() > began, f"{name}: refused ({pattern})", 60
        )
        before = self._arrived()
        attempts = self._attempts()
        self.rig.wait_for(lambda: self._attempts() >= attempts + REFUSED_ATTEMPTS, f"{name}: tried again", PATIENCE_S)
        self.reasons[name] = system.state(OPCUA).trouble
        self.rig.require(self._arrived() == before, f"{name}: nothing arrives while it is refused")
        self.rig.require(system.metric(OPCUA, "twin_healthy") == 0, f"{name}: the connector is unhealthy")
        self.rig.require(system.log_matches(OPCUA, pattern), f"{name}: a line in the log ({pattern})")
        self.rig.struck()
        repair()
        repaired_s = time.time()
        self.rig.wait_for(lambda: self._arrived() > before, f"{name}: readings arrive again", PATIENCE_S)
        if then is not None:
            then()
        system.wait_flowing(PATIENCE_S, since_s=repaired_s)
        self.rig.wait_for(lambda: not system.state(OPCUA).trouble, f"{name}: healthy again", PATIENCE_S)

    def trust(self, name: str) -> None:
        """Pin a certificate, as `twin browse --trust` does."""
        pin(self.config, self.servers.der(name))

    def first_again(self) -> None:
        """The server has its first certificate, and that is pinned."""
        self.serve(**self.servers.keys("first"))
        self.trust("first")

    def serve(self, certificate: str | None, key: str | None) -> None:
        """The server is started again with this certificate."""
        self.field.kill()
        self.field.restart(certificate=certificate, key=key)

    def _attempts(self) -> float:
        return self.system.metric(OPCUA, "twin_retries_total", dependency="opcua") or 0.0

    def _arrived(self) -> int:
        return sum(len(frame) for frame in self.system.records(RAW) if isinstance(frame, Frame))


def _replace(path: Path, content: bytes) -> None:
    partial = path.with_suffix(".new")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)
