"""One InfluxDB 2 server on loopback, with its organisation, bucket and token set up on a fresh data folder."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

from services.errors import ServiceError
from services.install import influxd_program
from services.service import Service

ORG = "process-twin"
BUCKET = "plant"
USER = "process-twin"


class InfluxDB(Service):
    """An InfluxDB server; `url`, `org`, `bucket` and `token` are what a client needs.

    The token is made when the data folder is new and kept in a file there that only its owner can read.
    """

    name = "influxdb"
    # At SIGTERM influxd 2.7 just dies; only SIGINT makes it close its files.
    stop_signal = signal.SIGINT
    org = ORG
    bucket = BUCKET

    @property
    def url(self) -> str:
        """The address for clients, http://host:port."""
        return f"http://{self.host}:{self.port}"

    @property
    def token(self) -> str:
        """The operator token; raises ServiceError before the first start."""
        return self._credentials()["token"]

    def environment(self) -> dict[str, str]:
        """Return INFLUX_URL, INFLUX_ORG, INFLUX_BUCKET and INFLUX_TOKEN."""
        return {
            "INFLUX_URL": self.url,
            "INFLUX_ORG": self.org,
            "INFLUX_BUCKET": self.bucket,
            "INFLUX_TOKEN": self.token,
        }

    def prepare(self) -> list[str]:
        """Make the credentials of a fresh data folder and return the server's command line."""
        if not self._credentials_file.exists():
            self._make_credentials()
        return [str(influxd_program())]

    def environment_for_process(self) -> dict[str, str]:
        """Return influxd's settings: no report home, loopback only, one compaction at a time on a small machine."""
        return {
            "INFLUXD_HTTP_BIND_ADDRESS": f"{self.host}:{self.port}",
            "INFLUXD_BOLT_PATH": str(self.directory / "influxd.bolt"),
            "INFLUXD_SQLITE_PATH": str(self.directory / "influxd.sqlite"),
            "INFLUXD_ENGINE_PATH": str(self.directory / "engine"),
            "INFLUXD_REPORTING_DISABLED": "true",
            "INFLUXD_UI_DISABLED": "true",
            "INFLUXD_LOG_LEVEL": "warn",
            "INFLUXD_STORAGE_MAX_CONCURRENT_COMPACTIONS": "1",
            # The default of 64 MB/s bursts would occupy a core of two while readings still come in.
            "INFLUXD_STORAGE_COMPACT_THROUGHPUT_BURST": "16777216",
            "INFLUXD_QUERY_CONCURRENCY": "8",
            "INFLUXD_QUERY_QUEUE_SIZE": "64",
        }

    def answers(self) -> bool:
        """Return whether the server is healthy and set up; sets it up when it is fresh."""
        try:
            if self._request("/health")["status"] != "pass":
                return False
            if self._request("/api/v2/setup")["allowed"]:
                self._set_up()
        except (OSError, ValueError, http.client.HTTPException):
            return False
        return True

    def _set_up(self) -> None:
        known = self._credentials()
        wanted = {
            "username": USER,
            "password": known["password"],
            "token": known["token"],
            "org": self.org,
            "bucket": self.bucket,
            "retentionPeriodSeconds": 0,
        }
        self._request("/api/v2/setup", wanted)

    def _request(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, {"Content-Type": "application/json"})
        # No proxy: the address is on loopback whatever the environment says about the way out.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(request, timeout=5.0) as answer:
            parsed: dict[str, Any] = json.load(answer)
        return parsed

    @property
    def _credentials_file(self) -> Path:
        return self.directory / "credentials.json"

    def _credentials(self) -> dict[str, str]:
        try:
            known: dict[str, str] = json.loads(self._credentials_file.read_text())
        except OSError as error:
            raise ServiceError(f"InfluxDB's token is not there before its first start: {error}") from error
        return known

    def _make_credentials(self) -> None:
        made = json.dumps({"token": secrets.token_urlsafe(48), "password": secrets.token_urlsafe(24)})
        descriptor = os.open(self._credentials_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(made)
