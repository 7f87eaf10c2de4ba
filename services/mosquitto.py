"""One mosquitto MQTT broker on loopback, set up to lose nothing that was sent with QoS 1."""

from __future__ import annotations

import os
import threading
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paho.mqtt.client as mqtt

from services.install import mosquitto_program
from services.service import Service

AUTOSAVE_S = 5
MAX_PACKET_BYTES = 64 * 1024 * 1024


@dataclass(frozen=True)
class Listener:
    """A further listener on loopback: TLS when it has a certificate, passwords when it has a password file."""

    port: int
    allow_anonymous: bool = False
    password_file: Path | None = None
    acl_file: Path | None = None
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    require_certificate: bool = False

    def lines(self) -> list[str]:
        """Return the listener's lines of mosquitto.conf."""
        files = {
            "password_file": self.password_file,
            "acl_file": self.acl_file,
            "cafile": self.ca_file,
            "certfile": self.cert_file,
            "keyfile": self.key_file,
        }
        return [
            f"listener {self.port} 127.0.0.1",
            f"allow_anonymous {_bool(self.allow_anonymous)}",
            *(f"{key} {path}" for key, path in files.items() if path is not None),
            *(["require_certificate true"] if self.require_certificate else []),
        ]


class Mosquitto(Service):
    """An MQTT broker; `host` and `port` are its address. Anybody on this machine may connect to `port`."""

    name = "mosquitto"

    def __init__(
        self,
        directory: Path,
        log: Path,
        port: int | None = None,
        listeners: tuple[Listener, ...] = (),
        extra_settings: dict[str, str] | None = None,
    ) -> None:
        super().__init__(directory, log, port)
        self.listeners = listeners
        self.extra_settings = extra_settings or {}

    def environment(self) -> dict[str, str]:
        """Return MQTT_HOST and MQTT_PORT."""
        return {"MQTT_HOST": self.host, "MQTT_PORT": str(self.port)}

    def prepare(self) -> list[str]:
        """Write mosquitto.conf and return the broker's command line."""
        settings = self.directory / "mosquitto.conf"
        settings.write_text("\n".join([*self._global_lines(), *self._listener_lines()]) + "\n")
        return [str(mosquitto_program()), "-c", str(settings)]

    def answers(self) -> bool:
        """Return whether the broker accepts a real MQTT connection."""
        accepted = threading.Event()
        client = mqtt.Client(
            mqtt.CallbackAPIVersion.VERSION2, client_id=f"ready-{uuid.uuid4().hex[:8]}", protocol=mqtt.MQTTv5
        )

        def on_connect(_client: Any, _data: Any, _flags: Any, reason: Any, _properties: Any) -> None:
            if not reason.is_failure:
                accepted.set()

        client.on_connect = on_connect
        try:
            client.connect(self.host, self.port, keepalive=10)
        except OSError:
            return False
        client.loop_start()
        answered = accepted.wait(2.0)
        client.disconnect()
        client.loop_stop()
        return answered

    def settings(self) -> dict[str, str]:
        """Return the broker's global settings, as written to mosquitto.conf."""
        return {
            # Security settings per listener only when there are such: mosquitto then no longer inherits them.
            "per_listener_settings": _bool(bool(self.listeners)),
            "persistence": "true",
            "persistence_location": f"{self.directory}/",
            # Only a regular stop saves everything; after kill -9 what came since the last save is lost with it.
            "autosave_interval": str(AUTOSAVE_S),
            # 0 is "no limit": the receive maximum of the client decides how much is in flight, and beyond a queue
            # limit mosquitto drops QoS 1 messages without a word. While a connector is away, the broker is the buffer.
            "max_inflight_messages": "0",
            "max_queued_messages": "0",
            "queue_qos0_messages": "true",
            "max_packet_size": str(MAX_PACKET_BYTES),
            "set_tcp_nodelay": "true",
            "log_dest": "stdout",
            "connection_messages": "true",
            **self.extra_settings,
        }

    def _global_lines(self) -> list[str]:
        # As root, mosquitto would change to a user that may not write to our data folder.
        user = ["user root"] if os.geteuid() == 0 else []
        types = [f"log_type {kind}" for kind in ("error", "warning", "notice")]
        stamps = ["log_timestamp true", "log_timestamp_format %Y-%m-%dT%H:%M:%S"]
        return [*(f"{key} {value}" for key, value in self.settings().items()), *user, *types, *stamps]

    def _listener_lines(self) -> list[str]:
        own = Listener(self.port, allow_anonymous=True)
        return [line for listener in (own, *self.listeners) for line in listener.lines()]


def _bool(value: bool) -> str:
    return "true" if value else "false"
