"""A token per role for InfluxDB, so that no process holds the operator's: the sink writes, who looks reads."""

from __future__ import annotations

import json
import os
import ssl
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from services.errors import ServiceError

#: Role → what it may do with the bucket; the role is also the name of the token's file.
ROLES = {"sink": ("write",), "viewer": ("read",), "operator": ("write",), "replay": ("read", "write")}
TIMEOUT_S = 10.0


class InfluxApi:
    """The few requests to InfluxDB's API that setting it up takes."""

    def __init__(self, url: str, token: str | None = None, ca_file: Path | None = None) -> None:
        self._url = url.rstrip("/")
        self._headers = {"Content-Type": "application/json"} | ({"Authorization": f"Token {token}"} if token else {})
        secure = ssl.create_default_context(cafile=ca_file and str(ca_file))
        # No proxy: the database is part of the system, not of the outside.
        self._opener = urllib.request.build_opener(
            urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=secure)
        )

    def ask(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """GET, or POST where there is a body. Raises OSError, ValueError, http.client.HTTPException."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self._url + path, data, self._headers)
        with self._opener.open(request, timeout=TIMEOUT_S) as answer:
            parsed: dict[str, Any] = json.load(answer)
        return parsed


def make_tokens(api: InfluxApi, org: str, bucket: str, folder: Path, roles: Sequence[str] = tuple(ROLES)) -> list[Path]:
    """Files `folder`/ROLE with a token each, readable by their owner only; one that InfluxDB still knows is kept.

    `api` needs the operator's token. Raises ServiceError where organisation or bucket is unknown, OSError.
    """
    org_id = _id_of(api, "orgs", {"org": org})
    bucket_id = _id_of(api, "buckets", {"name": bucket, "orgID": org_id})
    known = {one["token"] for one in api.ask(f"/api/v2/authorizations?orgID={org_id}")["authorizations"]}
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    files = []
    for role in roles:
        files.append(path := folder / role)
        if path.exists() and path.read_text("utf-8").strip() in known:
            continue
        resource = {"type": "buckets", "id": bucket_id, "orgID": org_id}
        permissions = [{"action": action, "resource": resource} for action in ROLES[role]]
        wanted = {"orgID": org_id, "description": f"process-twin {role}", "permissions": permissions}
        _write(path, api.ask("/api/v2/authorizations", wanted)["token"])
    return files


def _id_of(api: InfluxApi, kind: str, query: dict[str, str]) -> str:
    try:
        found = api.ask(f"/api/v2/{kind}?{urllib.parse.urlencode(query)}")[kind]
    except urllib.error.HTTPError as error:
        if error.code != 404:
            raise
        found = []
    if not found:
        raise ServiceError(f"InfluxDB has no {kind[:-1]} {next(iter(query.values()))!r}, or this token may not see it")
    return str(found[0]["id"])


def _write(path: Path, token: str) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(token + "\n")
    partial.replace(path)
