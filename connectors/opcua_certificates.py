"""Certificates: our own, made once and kept, and the servers' that people pinned.

A pin is a file per endpoint, so a certificate pinned for one host is not accepted from another. Nothing here ever
falls back to less: what is missing, expired or different is refused with what to do about it.
"""

import contextlib
import fcntl
import hashlib
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlparse

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from runtime.config import Opcua

_DAYS = 3650
_KEY_BITS = 3072
_NAME_CHARS_MAX = 64  # X.520's bound of a common name


class Refused(RuntimeError):
    """We do not connect like this. The message says why and what to do."""


class OwnCertificate:
    """Certificate (DER) and private key (PEM, mode 0600) of this installation, made on first use."""

    def __init__(self, directory: Path) -> None:
        directory = directory.expanduser()
        self.certificate = directory / "own_certificate.der"
        self.key = directory / "own_key.pem"
        if not self._is_there():
            directory.mkdir(parents=True, exist_ok=True, mode=0o700)
            with (directory / "own.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)  # connectors that start at once would mix their keys and certificates
                if not self._is_there():
                    _make(self.certificate, self.key)
        remedy = f"delete it and {self.key.name}, start again, and let the server trust the new one"
        try:
            loaded = load_certificate(self.certificate)
            if load_key(self.key).public_key() != loaded.public_key():
                raise Refused(f"{self.key} is the key of another one")
            names = loaded.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            self.application_uri: str = names.get_values_for_type(x509.UniformResourceIdentifier)[0]
        except (Refused, ValueError, x509.ExtensionNotFound, IndexError) as error:
            raise Refused(f"our own certificate {self.certificate} cannot be used ({error}); {remedy}") from error
        if loaded.not_valid_after_utc <= datetime.now(UTC):
            raise Refused(
                f"our own certificate {self.certificate} expired on {loaded.not_valid_after_utc:%Y-%m-%d}; {remedy}"
            )

    def _is_there(self) -> bool:
        return self.certificate.exists() and self.key.exists()


def load_certificate(path: Path) -> x509.Certificate:
    """The certificate in a PEM or DER file. Raises Refused where it holds none, OSError where it is not there."""
    content = path.expanduser().read_bytes()
    try:
        return x509.load_pem_x509_certificate(content) if _is_pem(content) else x509.load_der_x509_certificate(content)
    except (ValueError, x509.InvalidVersion) as error:
        raise Refused(f"{path} holds no certificate ({error})") from error


def load_key(path: Path) -> rsa.RSAPrivateKey:
    """The private key in a PEM or DER file. Raises like `load_certificate`."""
    content = path.expanduser().read_bytes()
    load = serialization.load_pem_private_key if _is_pem(content) else serialization.load_der_private_key
    try:
        key = load(content, None)
    except TypeError as error:
        raise Refused(f"{path} is encrypted; store the key without a password: `openssl rsa -in {path}`") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise Refused(f"{path} holds no private key ({error})") from error
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Refused(f"{path} holds no RSA key, which every policy of ours needs")
    return key


def _is_pem(content: bytes) -> bool:
    return content.lstrip().startswith(b"-----BEGIN")


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate as people compare it: `AB:CD:…`."""
    return hashlib.sha256(der).digest().hex(":").upper()


def pin_path(config: Opcua) -> Path:
    """Where the pinned certificate of the configured server is."""
    if config.server_certificate is not None:
        return config.server_certificate.expanduser()
    url = urlparse(config.address)
    return config.certificate_dir.expanduser() / "pinned" / f"{url.hostname}_{url.port or 4840}.der"


def pinned(config: Opcua) -> bytes:
    """The server's pinned certificate, DER. Raises Refused where there is none or it is not valid today."""
    path = pin_path(config)
    try:
        certificate = load_certificate(path)
    except OSError as error:
        raise Refused(
            f"the server's certificate is not pinned ({path}: {error.strerror}); look at it and pin it with "
            f"`twin browse --trust {config.address}`"
        ) from error
    check_validity(certificate, f"the pinned server certificate {path}")
    return certificate.public_bytes(serialization.Encoding.DER)


def check_validity(certificate: x509.Certificate, what: str) -> None:
    """Raises Refused for a certificate that is not valid today."""
    now = datetime.now(UTC)
    if certificate.not_valid_after_utc <= now:
        raise Refused(f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC; renew it, then pin it")
    if certificate.not_valid_before_utc > now:
        raise Refused(f"{what} is valid only from {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC on")


def pin(config: Opcua, der: bytes) -> Path:
    """Store a server's certificate as the pinned one and return where. Raises Refused where it is not valid today."""
    check_validity(x509.load_der_x509_certificate(der), "the server's certificate")
    path = pin_path(config)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(path, der)
    return path


def check_host(der: bytes, url: str) -> None:
    """Raises Refused for a certificate that does not name the URL's host: it may belong to another machine."""
    host = (urlparse(url).hostname or "").lower()
    named: list[str] = []
    with contextlib.suppress(x509.ExtensionNotFound):
        names = x509.load_der_x509_certificate(der).extensions.get_extension_for_class(x509.SubjectAlternativeName)
        named += [name.lower() for name in names.value.get_values_for_type(x509.DNSName)]
        named += [str(address) for address in names.value.get_values_for_type(x509.IPAddress)]
    if host not in named:
        raise Refused(
            f"the server's certificate names {', '.join(named) or 'no host'}, not {host}: it may be another machine's. "
            f"If it is this server's all the same: `twin browse --trust --any-host {url}`"
        )


def _make(certificate: Path, key: Path) -> None:
    host = socket.gethostname()
    uri = f"urn:{host}:process-twin"
    private = rsa.generate_private_key(public_exponent=65537, key_size=_KEY_BITS)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"process-twin on {host}"[:_NAME_CHARS_MAX])])
    now = datetime.now(UTC)
    usage = x509.KeyUsage(
        digital_signature=True,
        content_commitment=True,
        key_encipherment=True,
        data_encipherment=True,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=False,
        encipher_only=False,
        decipher_only=False,
    )
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(private.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(private.public_key()), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri), x509.DNSName(host)]), critical=False
        )
        .add_extension(usage, critical=False)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
        .sign(private, hashes.SHA256())
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    _write(key, pem, mode=0o600)
    _write(certificate, made.public_bytes(serialization.Encoding.DER))


def _write(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Write a file in one step; somebody else may do so at the same time."""
    partial = path.with_suffix(f".{os.getpid()}.partial")
    with os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(content)
    partial.replace(path)
