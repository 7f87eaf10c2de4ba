"""Certificates and users of the OPC UA connector: refused when wrong, never a fall back, no restart to recover."""

import asyncio
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.x509.oid import NameOID

from connectors import opcua_certificates
from connectors.browse import BrowseFailed, ServerCertificate, run_browse
from connectors.opcua_certificates import (
    OwnCertificate,
    Refused,
    check_host,
    load_certificate,
    load_key,
    pin,
    pin_path,
    pinned,
)
from connectors.opcua_nodes import Nodes
from connectors.opcua_session import TROUBLE, Session
from runtime.config import Opcua, Plant
from tests.connectors.opcua_server import URI
from tests.connectors.opcua_tools import ServerProcess, bench, until


def certificate(directory: Path, name: str, days: int = 10, host: str = "localhost") -> tuple[str, str]:
    """A server's certificate and key that ends in so many days (negative: it has ended), as file names."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(subject).public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=100)).not_valid_after(now + timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName(
            [x509.UniformResourceIdentifier(f"{URI}:server"), x509.DNSName(host)]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    der, pem = directory / f"{name}.der", directory / f"{name}.pem"
    der.write_bytes(made.public_bytes(serialization.Encoding.DER))
    pem.write_bytes(key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()))  # fmt: skip
    return str(der), str(pem)


def settings(directory: Path, server: ServerProcess) -> Opcua:
    """As the tests' plant.toml has them."""
    return Opcua(url=server.url, certificate_dir=directory / "certificates", state_dir=directory / "state")


@pytest.mark.services
def test_pinned_encrypted_rotated_and_back(kafka: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read before the certificate is pinned; pinned, values flow encrypted for the right password; a
    server with another certificate is refused; once that is pinned, values flow again, all without a restart."""
    monkeypatch.setenv("OPCUA_PASSWORD", "old secret")
    first, second = certificate(tmp_path, "first"), certificate(tmp_path, "second")
    with bench(kafka, tmp_path) as made:
        server = made.server(assets=1, certificate=first[0], key=first[1], user="twin", password="old secret")
        connector = made.connector(server, 'username = "twin"')
        connector.says("is not pinned")
        assert made.raw.count() == 0
        pin(settings(tmp_path, server), Path(first[0]).read_bytes())
        until(lambda: made.raw.count() == 1, 15, "the first value over the encrypted session")
        server.kill()
        server.restart(certificate=second[0], key=second[1])
        connector.says("shows the certificate")
        assert made.raw.count() == 1
        pin(settings(tmp_path, server), Path(second[0]).read_bytes())
        until(lambda: made.raw.count() == 2, 15, "a value from the server with the new certificate")
        connector.says("connected again")
        server.kill()
        server.restart(password="new secret")
        connector.says("BadUserAccessDenied")
        log = connector.log.read_text()
    assert "secret" not in log


@pytest.mark.services
def test_browse_trusts_lists_and_writes_a_tag_file(tmp_path: Path) -> None:
    """Browse refuses an unknown certificate and says how to pin it; after trusting it shows every variable with type,
    value, unit and tag, and writes a tag file that the connector's configuration takes."""
    files = certificate(tmp_path, "server")
    server = ServerProcess(
        assets=2, tags=["Temperature", "FlowRate"], roles=["PV", "SV"], certificate=files[0], key=files[1]
    )
    shown: list[ServerCertificate] = []

    def look(found: ServerCertificate) -> bool:
        shown.append(found)
        return len(shown) > 1

    try:
        config = settings(tmp_path, server)
        with pytest.raises(BrowseFailed, match="twin browse --trust"):
            run_browse(config)
        with pytest.raises(BrowseFailed, match=r"names localhost, not 127\.0\.0\.1: .*--any-host"):
            run_browse(config, trust=True, confirm=look)
        assert not shown
        with pytest.raises(BrowseFailed, match="not accepted"):
            run_browse(config, trust=True, any_host=True, confirm=look)
        assert not pin_path(config).exists()
        tags_file = tmp_path / "tags.toml"
        found = run_browse(config, trust=True, any_host=True, confirm=look, write=tags_file)
        with pytest.raises(BrowseFailed, match="exists already"):
            run_browse(config, write=tags_file)
    finally:
        server.kill()
    assert shown[0].fingerprint.count(":") == 31
    assert {(v.asset, v.tag) for v in found} == {
        (asset, tag + sv) for asset in ("R0", "R1") for tag in ("temperature", "flow_rate") for sv in ("", ".sv")
    }
    assert {(v.type, v.value, v.unit, v.status, v.matched) for v in found} == {("Double", "0", "degC", "Good", True)}
    told = settings(tmp_path, server).model_copy(update={"tags_file": tags_file})
    assert len(Nodes(Plant(opcua=(told,)), told)._configured) == 8


def test_an_expired_pin_is_refused(tmp_path: Path) -> None:
    """A pinned certificate that has ended is refused with its date, and none that has ended can be pinned."""
    expired = Path(certificate(tmp_path, "old", days=-1)[0])
    config = Opcua(server_certificate=expired)
    with pytest.raises(Refused, match="expired on"):
        pinned(config)
    with pytest.raises(Refused, match="expired on"):
        pin(Opcua(certificate_dir=tmp_path / "c"), expired.read_bytes())


def test_a_pin_holds_for_one_endpoint(tmp_path: Path) -> None:
    """What is pinned for one host and port is not accepted for another; PEM files may be named as well."""
    der = Path(certificate(tmp_path, "server", host="plc7")[0]).read_bytes()
    here, there = (Opcua(url=f"opc.tcp://{host}:4840", certificate_dir=tmp_path / "c") for host in ("plc7", "plc8"))
    pin(here, der)
    assert pinned(here) == der
    check_host(der, here.address)
    with pytest.raises(Refused, match="names plc7, not plc8"):
        check_host(der, there.address)
    with pytest.raises(Refused, match="not pinned"):
        pinned(there)
    pem = tmp_path / "server.crt"
    pem.write_bytes(x509.load_der_x509_certificate(der).public_bytes(serialization.Encoding.PEM))
    assert pinned(Opcua(server_certificate=pem)) == der


def test_our_certificate_is_made_once_and_kept(tmp_path: Path) -> None:
    """The first start makes key and certificate, the key for our eyes only; later starts use the same."""
    made = OwnCertificate(tmp_path / "c")
    before = made.certificate.read_bytes(), made.key.read_bytes()
    again = OwnCertificate(tmp_path / "c")
    assert (again.certificate.read_bytes(), again.key.read_bytes()) == before
    assert stat.S_IMODE(made.key.stat().st_mode) == 0o600
    assert again.application_uri.startswith("urn:")


def test_connectors_that_start_first_at_once_share_one_certificate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where four connectors of one directory need our own certificate at the same moment, one of them makes it."""
    make, makers = opcua_certificates._make, []

    def slowly(made: Path, key: Path) -> None:
        makers.append(made)
        time.sleep(0.3)
        make(made, key)

    monkeypatch.setattr(opcua_certificates, "_make", slowly)
    with ThreadPoolExecutor(4) as pool:
        own = list(pool.map(OwnCertificate, [tmp_path / "c"] * 4))
    assert makers == [own[0].certificate]


def test_a_damaged_certificate_of_ours_is_refused(tmp_path: Path) -> None:
    """Where our own certificate or key cannot be read, the refusal names it and says what to do."""
    made = OwnCertificate(tmp_path)
    for path in (made.certificate, made.key):
        whole = path.read_bytes()
        for damage in (b"", b"-----BEGIN", b"rubbish"):
            path.write_bytes(damage)
            with pytest.raises(Refused, match=f"cannot be used .*{path} holds no.*delete it and own_key.pem"):
                OwnCertificate(tmp_path)
        path.write_bytes(whole)
    assert OwnCertificate(tmp_path).application_uri == made.application_uri


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    """A key that does not belong to our certificate is told at the start, not by a server's answer."""
    made, other = OwnCertificate(tmp_path / "c"), OwnCertificate(tmp_path / "other")
    made.key.write_bytes(other.key.read_bytes())
    with pytest.raises(Refused, match=f"{made.key} is the key of another one.*delete it and own_key.pem"):
        OwnCertificate(tmp_path / "c")


def test_a_user_key_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    """A user's key that is encrypted, of another kind or none at all is refused with its file, as a trouble that is
    tried again; a good one may be PEM or DER."""
    der, pem = (Path(name) for name in certificate(tmp_path, "user"))
    key = load_key(pem)
    assert load_certificate(der).public_key() == key.public_key()

    def stored(key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, coded: str, password: bytes | None) -> Path:
        encrypted = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
        path = tmp_path / f"user.{coded}.{bool(password)}"
        path.write_bytes(key.private_bytes(
            getattr(serialization.Encoding, coded), serialization.PrivateFormat.PKCS8, encrypted))  # fmt: skip
        return path

    assert load_key(stored(key, "DER", None)).public_key() == key.public_key()
    rubbish = tmp_path / "rubbish"
    rubbish.write_bytes(b"\x00")
    reasons = {
        stored(key, "PEM", b"secret"): "is encrypted",
        stored(key, "DER", b"secret"): "is encrypted",
        stored(ec.generate_private_key(ec.SECP256R1()), "PEM", None): "no RSA key",
        rubbish: "no private key",
    }
    for path, reason in reasons.items():
        with pytest.raises(Refused, match=f"{path}.*{reason}"):
            load_key(path)
    with pytest.raises(Refused, match="no certificate"):
        load_certificate(rubbish)
    encrypted = stored(key, "PEM", b"secret")
    config = Opcua(security="None", mode="None", user_certificate_file=der, user_key_file=encrypted)
    with pytest.raises(TROUBLE, match="is encrypted"):
        asyncio.run(Session.open(config))
