"""`twin cert`: an authority, certificates that TLS accepts, dates renewed, nothing ever replaced in silence."""

import socket
import ssl
import stat
import threading
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from click.testing import Result
from cryptography import x509
from typer.testing import CliRunner

from cli.cert import app
from services.certificates import Authority, CertificateError, Issued


def handshake(ca: Path, issued: Issued, host: str) -> str | None:
    """Why a client that trusts `ca` refuses a server that shows this certificate as `host`; None: it accepts it."""
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_side.load_cert_chain(issued.certificate, issued.key)
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            with suppress(OSError):
                server_side.wrap_socket(listening.accept()[0], server_side=True).recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        client_side = ssl.create_default_context(cafile=str(ca))
        client_side.verify_flags |= ssl.VERIFY_X509_STRICT
        try:
            with (
                socket.create_connection(listening.getsockname()) as raw,
                client_side.wrap_socket(raw, server_hostname=host),
            ):
                return None
        except ssl.SSLCertVerificationError as error:
            return error.verify_message
        finally:
            thread.join()


def test_a_client_accepts_what_the_authority_issued_and_nothing_else(tmp_path: Path) -> None:
    """A strict TLS client accepts the server by each of its names; another name, another authority, and a certificate
    that has ended are refused."""
    authority, other = Authority.make(tmp_path / "a"), Authority.make(tmp_path / "b")
    server = authority.server("kafka", ["localhost", "127.0.0.1"])
    assert handshake(authority.certificate, server, "localhost") is None
    assert handshake(authority.certificate, server, "127.0.0.1") is None
    assert "Hostname mismatch" in (handshake(authority.certificate, server, "kafka.plant") or "")
    assert "unable to get local issuer" in (handshake(other.certificate, server, "localhost") or "")
    ended = authority.server("ended", days=-1)
    assert "certificate has expired" in (handshake(authority.certificate, ended, "localhost") or "")


def test_renewing_changes_the_dates_only(tmp_path: Path) -> None:
    """A renewed certificate is accepted again by who trusts the same authority; key, names and purpose are the same."""
    authority = Authority.make(tmp_path)
    server = authority.server("influxdb", ["localhost"], days=-1)
    ca, key, old = authority.certificate.read_bytes(), server.key.read_bytes(), _load(server.certificate)
    authority.renew("influxdb", days=2)
    new = _load(server.certificate)
    assert handshake(authority.certificate, server, "localhost") is None
    assert (authority.certificate.read_bytes(), server.key.read_bytes()) == (ca, key)
    assert (list(new.extensions), new.subject) == (list(old.extensions), old.subject)
    assert new.serial_number != old.serial_number
    with pytest.raises(CertificateError, match="is not of the authority"):
        Authority.make(tmp_path / "other")
        (tmp_path / "other" / "influxdb.pem").write_bytes(server.certificate.read_bytes())
        Authority(tmp_path / "other").renew("influxdb")


def test_the_command_line_makes_adds_renews_and_replaces_nothing(tmp_path: Path) -> None:
    """`twin cert make` writes servers, a client and OPC UA applications, private keys for their owner only; a second
    `make` or `add` is refused and changes no byte; `renew --days` is what its name says."""
    folder = tmp_path / "certs"

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, arguments)

    assert run("make", str(folder), "--host", "plc7", "--days", "9").exit_code == 0
    assert run("add", str(folder), "client", "pump-7").exit_code == 0
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    certificates = {name.removesuffix(".pem") for name in files if name.endswith(".pem")}
    assert certificates == {
        "ca", "kafka", "mosquitto", "influxdb", "connector-mqtt", "pump-7", "opcua-server",
    }  # fmt: skip
    keys = [path for path in folder.iterdir() if b"PRIVATE KEY" in path.read_bytes()]
    assert {path.name for path in keys} == {f"{name}.key" for name in certificates}
    assert {stat.S_IMODE(path.stat().st_mode) for path in keys} == {0o600}
    names = _load(folder / "kafka.pem").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["plc7"]
    for again in (("make", str(folder)), ("add", str(folder), "server", "kafka")):
        refused = run(*again)
        assert refused.exit_code == 1
        assert "exists and is left as it is" in refused.stderr
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == files
    assert run("renew", str(folder), "kafka", "--days", "30").exit_code == 0
    left = _load(folder / "kafka.pem").not_valid_after_utc - datetime.now(UTC)
    assert timedelta(days=29) < left <= timedelta(days=30)
    changed = {path.name for path in folder.iterdir() if path.read_bytes() != files[path.name]}
    assert changed == {"kafka.pem"}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--host", "bäd"), "'bäd' is no host's name"),
        (("--days", "1e9"), "1e+09 days are no time of a certificate"),
        (("--ca-days", "1e9"), "1e+09 days are no time of a certificate"),
    ],
)
def test_what_no_certificate_can_have_is_refused_before_anything_is_written(
    tmp_path: Path, options: tuple[str, str], says: str
) -> None:
    """One line says what is wrong, and the corrected command finds nothing in its way."""
    refused = CliRunner().invoke(app, ["make", str(tmp_path / "certs"), *options])
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert refused.stderr.startswith(says)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "says"),
    [(("--uri", "urn:ä"), "'urn:ä' is no URI"), (("--host", "bäd"), "'bäd' is no host's name")],
)
def test_one_more_certificate_is_refused_likewise(tmp_path: Path, options: tuple[str, str], says: str) -> None:
    """`twin cert add` says in one line what is wrong, and adds nothing."""
    Authority.make(tmp_path)
    before = sorted(tmp_path.iterdir())
    refused = CliRunner().invoke(app, ["add", str(tmp_path), "opcua", "x", *options])
    assert (refused.exit_code, len(refused.stderr.splitlines())) == (1, 1)
    assert refused.stderr.startswith(says)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize("name", ["", "ca", "../kafka", "a/b", ".hidden"])
def test_a_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    """A name that is a path, or the authority's own, is refused before anything is written."""
    authority = Authority.make(tmp_path / "a")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CertificateError, match="is no name of a certificate"):
        authority.client(name)
    assert sorted(tmp_path.rglob("*")) == before


def _load(path: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificate(path.read_bytes())
