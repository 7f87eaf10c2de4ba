"""Fills a hole from the history that a server keeps of a node (HistoryRead, raw values)."""

import logging
from datetime import UTC, datetime, timedelta

from asyncua import ua

from connectors.opcua_binary import Value
from connectors.opcua_session import TROUBLE, Session, describe
from connectors.opcua_values import Item, is_bad, status_name

log = logging.getLogger(__name__)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PAGES_MAX = 1000


async def recall(session: Session, item: Item, since_ns: int, until_ns: int) -> tuple[list[Value], bool] | None:
    """The values strictly between two times, oldest first, and whether the history reaches back to the first time.

    It does where it still has a value at (or before) that time: we got that one, so it must be there. A server that
    lost its history in a restart does not. None where there is no history, with a log line why.
    """
    try:
        values = await _raw(session, item.node_id, since_ns, until_ns)
    except (*TROUBLE, OverflowError) as error:
        log.warning("%s: no history (%s)", item.node, describe(error))
        return None
    timed = sorted((v for v in values if v.source_ns is not None), key=_time)
    reaches_back = any(_time(v) // 1000 <= since_ns // 1000 for v in timed)
    return [v for v in timed if since_ns < _time(v) < until_ns], reaches_back


async def _raw(session: Session, node_id: ua.NodeId, since_ns: int, until_ns: int) -> list[Value]:
    start, end = (_EPOCH + timedelta(microseconds=ns // 1000) for ns in (since_ns, until_ns + 1000))
    values: list[Value] = []
    more = b""
    for _ in range(_PAGES_MAX):
        page = await session.history(node_id, start, end, more)
        if is_bad(page.status):
            raise ua.UaError(status_name(page.status))
        values += page.values
        more = page.more
        if not more:
            break
    return values


def _time(value: Value) -> int:
    return value.source_ns or 0
