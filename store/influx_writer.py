"""Writes line protocol to InfluxDB 2 and comes back only when every line is stored or known to be unwanted.

What InfluxDB answers decides what happens:

| answer                                | done                                                                     |
|---------------------------------------|--------------------------------------------------------------------------|
| 204                                   | stored                                                                   |
| 400, 413, 422                         | the lines are halved until the unwanted ones stand alone; they are given |
|                                       | back with InfluxDB's reason, the others are stored                       |
| 401, 403, 404                         | tried again for ever, 1 s doubling to 30 s; `on_refused` is told once    |
|                                       | per episode                                                              |
| everything else, time-out, broken     | tried again for ever, 0.1 s doubling to 30 s, or as Retry-After says (up |
| connection                            | to 300 s)                                                                |

Writing the same lines again leaves the same points, so every repetition is safe. Rule: knows lines, not records.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

import aiohttp
import orjson
from influxdb_client.client.influxdb_client_async import InfluxDBClientAsync
from influxdb_client.rest import ApiException

from runtime import metrics
from runtime.config import Influxdb
from runtime.health import HEALTH

log = logging.getLogger(__name__)

FIRST_DELAY_S = 0.1
FIRST_DELAY_REFUSED_S = 1.0
LONGEST_DELAY_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0
SLOW_S = 2.0
PEER = "influxdb"
_UNWANTED = frozenset({400, 413, 422})
_REFUSED = frozenset({401, 403, 404})
_REASON_CHARACTERS = 300


class Unwanted(NamedTuple):
    """A line that InfluxDB does not take. `line`: its place in the lines given."""

    line: int
    reason: str


class InfluxWriter:
    """A client of InfluxDB that stores lines.

    `on_refused(sentence)` is awaited at the first answer of an episode that says the token, organisation or bucket is
    wrong; an episode ends when InfluxDB takes lines again.
    """

    def __init__(self, influxdb: Influxdb, timeout_s: float, on_refused: Callable[[str], Awaitable[None]]) -> None:
        self._influxdb = influxdb
        self._timeout_ms = round(timeout_s * 1000)
        self._on_refused = on_refused
        self._trouble: int | None = None  # status of the last attempt that failed, None while all is well
        self._told = False
        self._slow = False
        self._client: InfluxDBClientAsync | None = None

    async def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            await self._client.close()

    def _connected(self) -> InfluxDBClientAsync:
        """The client, made at first use: it binds itself to the running event loop."""
        if self._client is None:
            ca_file = self._influxdb.ca_file
            self._client = InfluxDBClientAsync(
                url=self._influxdb.address,
                token=self._influxdb.token,
                org=self._influxdb.organisation,
                timeout=self._timeout_ms,
                ssl_ca_cert=None if ca_file is None else str(ca_file),
            )
        return self._client

    async def write(self, lines: list[str]) -> list[Unwanted]:
        """Store all lines; return those that InfluxDB does not want. Waits as long as it takes."""
        unwanted: list[Unwanted] = []
        todo = [(0, len(lines))] if lines else []
        splitting = False
        while todo:
            start, stop = todo.pop()
            reason = await self._stored("\n".join(lines[start:stop]).encode())
            if reason is None:
                continue
            if stop - start == 1:
                unwanted.append(Unwanted(start, reason))
                continue
            metrics.SPLIT.labels(PEER).inc()
            if not splitting:
                log.warning("%s; writing %d lines again in halves", reason, stop - start)
            splitting = True
            middle = (start + stop) // 2
            todo += [(middle, stop), (start, middle)]
        return unwanted

    async def _stored(self, body: bytes) -> str | None:
        """None when InfluxDB has stored the body, else why it never will."""
        attempt = 0
        while True:
            status, text, retry_after_s = await self._post(body)
            if 200 <= status < 300 or status in _UNWANTED:
                self._answered()
                return None if status < 300 else f"InfluxDB {status}: {text}"
            refused = status in _REFUSED
            first_s = FIRST_DELAY_REFUSED_S if refused else FIRST_DELAY_S
            wait_s = min(first_s * 2 ** min(attempt, 20), LONGEST_DELAY_S)
            if retry_after_s:
                wait_s = min(retry_after_s, LONGEST_RETRY_AFTER_S)
            await self._failed(status, text, wait_s, refused)
            await asyncio.sleep(wait_s)
            attempt += 1

    async def _post(self, body: bytes) -> tuple[int, str, float | None]:
        """(status, message, Retry-After in s); status 0 where no answer came."""
        began = time.monotonic()
        try:
            stored = await self._connected().write_api().write(self._influxdb.bucket_name, record=body)
            self._was_slow(time.monotonic() - began, len(body))
            return (204, "", None) if stored else (0, "an answer that is neither 201 nor 204", None)
        except ApiException as error:
            retry_after = (error.headers or {}).get("Retry-After")
            return int(error.status or 0), _message(error.body), _retry_after_s(retry_after)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return 0, f"{type(error).__name__}: {error}", None

    def _was_slow(self, took_s: float, size: int) -> None:
        """Say so at the first slow answer of an episode; `twin_stored_after_seconds` shows the rest."""
        slow = took_s > SLOW_S
        if slow and not self._slow:
            log.warning("InfluxDB is slow: %.1f s for %d bytes; the sink lags, nothing else waits for it", took_s, size)
        self._slow = slow

    def _answered(self) -> None:
        if self._trouble is not None:
            log.info("InfluxDB stores again")
        self._trouble = None
        self._told = False
        HEALTH.well(PEER)

    async def _failed(self, status: int, text: str, wait_s: float, refused: bool) -> None:
        metrics.RETRIES.labels(PEER).inc()
        answer = f"status {status}" if status else "no answer"
        sentence = f"InfluxDB does not store ({answer}): {text}"
        if status != self._trouble:
            log.warning("%s; trying again for ever, next in %g s", sentence, wait_s)
        self._trouble = status
        HEALTH.ill(PEER, sentence, logging.DEBUG)  # logged above, once per status
        if refused and not self._told:
            self._told = True
            await self._on_refused(sentence)


def _message(body: bytes | str | None) -> str:
    """InfluxDB's message of an error, shortened."""
    body = body.encode() if isinstance(body, str) else body or b""
    try:
        text = str(orjson.loads(body)["message"])
    except (ValueError, TypeError, KeyError):
        text = body.decode("utf-8", "replace")
    return text if len(text) <= _REASON_CHARACTERS else f"{text[:_REASON_CHARACTERS]}…"


def _retry_after_s(header: str | None) -> float | None:
    """Seconds to wait, from a number or an HTTP date (RFC 9110, 10.2.3); None where absent or not readable."""
    if header is None:
        return None
    try:
        return max(0.0, float(header))
    except ValueError:
        pass
    try:
        return max(0.0, (parsedate_to_datetime(header) - datetime.fromtimestamp(time.time(), UTC)).total_seconds())
    except (ValueError, TypeError):
        return None
