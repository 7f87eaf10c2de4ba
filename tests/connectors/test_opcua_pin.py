"""Pins are written whole, whoever else writes one."""

import asyncio
import subprocess
import sys
from pathlib import Path

from plant import server_certificate

PIN = """
import sys
from pathlib import Path
from connectors.opcua_certificates import pin
from runtime.config import Opcua

der = Path(sys.argv[1]).read_bytes()
for _ in range(2000):
    pin(Opcua(url="opc.tcp://127.0.0.1:4840", certificate_dir=Path(sys.argv[2])), der)
"""


def test_two_processes_can_pin_the_same_server_at_once(tmp_path: Path) -> None:
    """Two processes that pin a server over and over at the same time both succeed; the pin is the whole certificate."""
    certificate, key = server_certificate.paths(tmp_path / "plant")
    asyncio.run(server_certificate.make(certificate, key))
    command = [sys.executable, "-c", PIN, str(certificate), str(tmp_path)]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate()[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    assert [pin.read_bytes() for pin in (tmp_path / "pinned").iterdir()] == [certificate.read_bytes()]
