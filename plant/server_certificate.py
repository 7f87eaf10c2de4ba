"""The plant's own OPC UA certificate: made once per folder and kept, so that a connector's pin stays valid."""

import asyncio
import os
from pathlib import Path

from asyncua.crypto.cert_gen import setup_self_signed_certificate
from cryptography.x509.oid import ExtendedKeyUsageOID

APPLICATION = "urn:process-twin:plant:server"
HOST = "127.0.0.1"


def server_certificate(folder: Path) -> Path:
    """The certificate (DER) in `folder`, with its key beside it; made where it is not there yet."""
    certificate, key = paths(folder)
    asyncio.run(make(certificate, key))
    return certificate


def paths(folder: Path) -> tuple[Path, Path]:
    """Certificate and private key."""
    return folder / "plant.der", folder / "plant_key.pem"


async def make(certificate: Path, key: Path) -> None:
    """Make both where they are not there, or no longer valid."""
    certificate.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    names = {"commonName": "plant"}
    await setup_self_signed_certificate(key, certificate, APPLICATION, HOST, [ExtendedKeyUsageOID.SERVER_AUTH], names)
    os.chmod(key, 0o600)  # noqa: PTH101  # one system call; pathlib would count as blocking here
