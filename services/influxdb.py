"""One InfluxDB 2 server on loopback, with its organisation, bucket and tokens set up on a fresh data folder."""

from __future__ import annotations

import http.client
import json
import os
import secrets
import signal
from pathlib import Path

from services.certificates import Issued
from services.errors import ServiceError
from services.influx_tokens import ROLES, InfluxApi, make_tokens
from services.install import influxd_program
from services.service import Service

ORG = "process-twin"
BUCKET = "plant"
USER = "process-twin"


class InfluxDB(Service):
    """An InfluxDB server; `url`, `org`, `bucket` and a token are what a client needs.

    The operator's token is made when the data folder is new and kept in a file there that only its owner can read, and
    so are those of the roles, in `tokens_dir`: these are for processes, the operator's for nobody but administrators.
    With `tls` and the authority's `ca_file` the server speaks HTTPS only.
    """

    name = "influxdb"
    # At SIGTERM influxd 2.7 just dies; only SIGINT makes it close its files.
    stop_signal = signal.SIGINT
    org = ORG
    bucket = BUCKET

    def __init__(
        self,
        directory: Path,
        log: Path,
        port: int | None = None,
        *,
        tls: Issued | None = None,
        ca_file: Path | None = None,
    ) -> None:
        super().__init__(directory, log, port)
        self.tls, self.ca_file = tls, ca_file
        self.tokens_dir = self.directory / "tokens"

    @property
    def url(self) -> str:
        """The address for clients, http://host:port."""
        return f"{'http' if self.tls is None else 'https'}://{self.host}:{self.port}"

    @property
    def token(self) -> str:
        """The operator token; raises ServiceError before the first start."""
        return self._credentials()["token"]

    def environment(self) -> dict[str, str]:
        """Return INFLUX_URL, INFLUX_ORG, INFLUX_BUCKET, INFLUX_TOKENS_DIR, and in INFLUX_TOKEN one that only reads."""
        return {
            "INFLUX_URL": self.url,
            "INFLUX_ORG": self.org,
            "INFLUX_BUCKET": self.bucket,
            "INFLUX_TOKEN": (self.tokens_dir / "viewer").read_text("utf-8").strip(),
            "INFLUX_TOKENS_DIR": str(self.tokens_dir),
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
            **({} if self.tls is None else {"INFLUXD_TLS_CERT": str(self.tls.certificate)}),
            **({} if self.tls is None else {"INFLUXD_TLS_KEY": str(self.tls.key)}),
        }

    def answers(self) -> bool:
        """Return whether the server is healthy and set up; sets it up when it is fresh."""
        try:
            api = InfluxApi(self.url, ca_file=self.ca_file)
            if api.ask("/health")["status"] != "pass":
                return False
            if api.ask("/api/v2/setup")["allowed"]:
                self._set_up(api)
            if not all((self.tokens_dir / role).exists() for role in ROLES):
                make_tokens(InfluxApi(self.url, self.token, self.ca_file), self.org, self.bucket, self.tokens_dir)
        except (OSError, ValueError, http.client.HTTPException):
            return False
        return True

    def _set_up(self, api: InfluxApi) -> None:
        known = self._credentials()
        wanted = {
            "username": USER,
            "password": known["password"],
            "token": known["token"],
            "org": self.org,
            "bucket": self.bucket,
            "retentionPeriodSeconds": 0,
        }
        api.ask("/api/v2/setup", wanted)

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
