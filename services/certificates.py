"""A certificate authority in a folder, for development and for plants that have none: what `twin cert` is made of.

`ca.pem` and `ca.key` are the authority; each certificate stands beside them as `NAME.pem` with `NAME.key`, and for OPC
UA as `NAME.der`, too, because its applications exchange that form. Private keys are for their owner's eyes (0600). A
file that is there is never replaced, except by `renew`: it keeps key, names and purpose of a certificate and gives it
new dates in one step, so that a program which loads it meanwhile never finds a key that does not fit.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

LOOPBACK = ("localhost", "127.0.0.1")
CA_DAYS = 3650.0
DAYS = 365.0
#: OPC UA's policies take RSA of 2048 to 4096 bits and no elliptic curves.
RSA_BITS = 3072
#: Clocks of a plant differ; a certificate made now is good for one that is an hour behind.
SKEW = timedelta(hours=1)
SERVER = (ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH)  # a broker is its own client, too
CLIENT = (ExtendedKeyUsageOID.CLIENT_AUTH,)


class CertificateError(RuntimeError):
    """A certificate cannot be made. The message says why and what to do."""


@dataclass(frozen=True)
class Issued:
    """Where a certificate and its private key are, both PEM."""

    certificate: Path
    key: Path


class Authority:
    """The certificate authority of one folder."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.certificate = directory / "ca.pem"
        self.key = directory / "ca.key"

    @classmethod
    def make(cls, directory: Path, days: float = CA_DAYS) -> Authority:
        """A new authority. Raises CertificateError where the folder has one."""
        made = cls(directory)
        _refuse_to_replace(made.certificate, made.key)
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        name = _name(f"process-twin development CA {directory.absolute().name}")
        builder = (
            _builder(name, name, key, days)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_usage(sign_certificates=True), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        )
        _write(made.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        _write(made.certificate, builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM), 0o644)
        return made

    def server(self, name: str, hosts: Sequence[str] = LOOPBACK, days: float = DAYS) -> Issued:
        """A TLS server's certificate that names these hosts and addresses."""
        return self._issue(name, ec.generate_private_key(ec.SECP256R1()), _hosts(hosts), SERVER, days)

    def client(self, name: str, days: float = DAYS) -> Issued:
        """A TLS client's certificate; `name` is its common name, by which servers know it."""
        return self._issue(name, ec.generate_private_key(ec.SECP256R1()), [x509.DNSName(name)], CLIENT, days)

    def opcua(self, name: str, uri: str, hosts: Sequence[str] = LOOPBACK, days: float = DAYS) -> Issued:
        """An OPC UA application's certificate with its application URI, also as `NAME.der`."""
        key = rsa.generate_private_key(public_exponent=65537, key_size=RSA_BITS)
        names = [_uri(uri), *_hosts(hosts)]
        return self._issue(name, key, names, SERVER, days, der=True)

    def renew(self, name: str, days: float = DAYS) -> Issued:
        """New dates for a certificate of this authority; key, names and purpose stay."""
        issued = self._paths(name)
        old = _load(issued.certificate)
        try:
            old.verify_directly_issued_by(_load(self.certificate))
        except Exception as error:
            raise CertificateError(f"{issued.certificate} is not of the authority {self.certificate}") from error
        begin, end = _dates(days)
        builder = x509.CertificateBuilder(
            old.issuer, old.subject, old.public_key(), x509.random_serial_number(), begin, end, list(old.extensions)
        )
        made = builder.sign(self._private_key(), hashes.SHA256())
        _write(issued.certificate, made.public_bytes(Encoding.PEM), 0o644)
        if (der := issued.certificate.with_suffix(".der")).exists():
            _write(der, made.public_bytes(Encoding.DER), 0o644)
        return issued

    def names(self) -> list[str]:
        """Names of the certificates that are there, without the authority's own."""
        return sorted(path.stem for path in self.directory.glob("*.pem") if path != self.certificate)

    def expiry(self, name: str) -> datetime:
        """When a certificate ends (`ca`: the authority's)."""
        return _load(self.directory / f"{name}.pem").not_valid_after_utc

    def refuse_to_replace(self, names: Iterable[str]) -> None:
        """Raises CertificateError where a certificate of one of these names is there already."""
        for name in names:
            issued = self._paths(name)
            _refuse_to_replace(issued.certificate, issued.key)

    def _issue(
        self,
        name: str,
        key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey,
        names: Sequence[x509.GeneralName],
        purposes: Sequence[x509.ObjectIdentifier],
        days: float,
        *,
        der: bool = False,
    ) -> Issued:
        issued = self._paths(name)
        _refuse_to_replace(issued.certificate, issued.key)
        authority = _load(self.certificate)
        identifier = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        made = (
            _builder(_name(name), authority.subject, key, days)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(sign_certificates=False, encipher=isinstance(key, rsa.RSAPrivateKey)), critical=True)
            .add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False)
            .sign(self._private_key(), hashes.SHA256())
        )
        _write(issued.key, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), 0o600)
        _write(issued.certificate, made.public_bytes(Encoding.PEM), 0o644)
        if der:
            _write(issued.certificate.with_suffix(".der"), made.public_bytes(Encoding.DER), 0o644)
        return issued

    def _paths(self, name: str) -> Issued:
        if not name or name == "ca" or not set(name) <= _NAME_CHARACTERS or name.startswith("."):
            raise CertificateError(f"{name!r} is no name of a certificate; allowed are letters, digits, '.', '_', '-'")
        return Issued(self.directory / f"{name}.pem", self.directory / f"{name}.key")

    def _private_key(self) -> CertificateIssuerPrivateKeyTypes:
        try:
            key = load_pem_private_key(self.key.read_bytes(), password=None)
        except (OSError, ValueError) as error:
            raise CertificateError(f"{self.key}: no private key of an authority ({error})") from error
        if not isinstance(key, rsa.RSAPrivateKey):
            raise CertificateError(f"{self.key}: an authority of ours has an RSA key")
        return key


def check(hosts: Iterable[str], *days: float) -> None:
    """Raises CertificateError for hosts and times that no certificate can have; for who makes several, beforehand."""
    _hosts(hosts)
    for one in days:
        _dates(one)


_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def _refuse_to_replace(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise CertificateError(f"{path} exists and is left as it is; renew it, delete it, or use another folder")


def _load(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path}: no certificate ({error})") from error


def _write(path: Path, content: bytes, mode: int) -> None:
    """In one step, and with its mode from the first moment."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    partial.replace(path)


def _dates(days: float) -> tuple[datetime, datetime]:
    """From an hour ago for so many days; a negative number gives one that has ended."""
    try:
        end = datetime.now(UTC) + timedelta(days=days)
    except (OverflowError, ValueError) as error:
        raise CertificateError(f"{days:g} days are no time of a certificate, it may end in the year 9999") from error
    return min(datetime.now(UTC), end) - SKEW, end


def _builder(
    subject: x509.Name, issuer: x509.Name, key: rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey, days: float
) -> x509.CertificateBuilder:
    begin, end = _dates(days)
    return x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number(), begin, end)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])  # X.520's bound


def _hosts(hosts: Iterable[str]) -> list[x509.GeneralName]:
    names: list[x509.GeneralName] = []
    for host in hosts:
        try:
            names.append(x509.IPAddress(ipaddress.ip_address(host)))
        except ValueError:
            names.append(_dns_name(host))
    return names


def _dns_name(host: str) -> x509.DNSName:
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise CertificateError(f"{host!r} is no host's name; allowed are ASCII letters, as xn--… for others") from error


def _uri(uri: str) -> x509.UniformResourceIdentifier:
    try:
        return x509.UniformResourceIdentifier(uri)
    except ValueError as error:
        raise CertificateError(f"{uri!r} is no URI; allowed are ASCII letters, as %C3%A4 for others") from error


def _usage(sign_certificates: bool, encipher: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not sign_certificates,
        content_commitment=encipher,
        key_encipherment=encipher,
        data_encipherment=encipher,
        key_agreement=False,
        key_cert_sign=sign_certificates,
        crl_sign=sign_certificates,
        encipher_only=False,
        decipher_only=False,
    )
