"""Logs: one line per event to standard error, time in UTC, the process's name, no secrets.

Libraries that find a broker away say so at every attempt, dozens of times a second: such lines are thinned out.
"""

import logging
import sys
import threading
import time
from typing import Any

#: The same line passes so often in so many seconds.
SAME_MAX, SAME_S = 5, 10.0
_TEXTS_MAX = 1000


def configure(process: str, level: int = logging.INFO) -> None:
    """Send this process's log to standard error, each line `time level process logger: message`."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = OneLine(
        f"%(asctime)s.%(msecs)03dZ %(levelname)-7s {process} %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S"
    )
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.addFilter(Thinned())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    for noisy in ("aiokafka", "faust", "mode", "asyncua", "asyncio"):
        logging.getLogger(noisy).setLevel(max(level, logging.WARNING))


class OneLine(logging.Formatter):
    """A line per event, whatever names and texts from the field hold: no line break, no escape sequence of a terminal.

    The lines of a traceback follow theirs, each marked with a bar, so that none can be taken for an event.
    """

    def formatMessage(self, record: logging.LogRecord) -> str:
        """The event's own line."""
        return escaped(super().formatMessage(record))

    def formatException(self, ei: Any) -> str:
        """The traceback."""
        return "\n".join(f"  | {escaped(line)}" for line in super().formatException(ei).split("\n"))


def escaped(text: str) -> str:
    """The text with every character that does not print as its Python escape."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


class Thinned(logging.Filter):
    """Lets the same text through SAME_MAX times in SAME_S; the next one after that says how many were left out."""

    def __init__(self) -> None:
        super().__init__()
        self._lock = threading.Lock()
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # logger, text → begin of its period, times

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written."""
        text = record.getMessage()
        with self._lock:
            began_s, times = self._seen.get((record.name, text), (record.created, 0))
            over = not 0 <= record.created - began_s < SAME_S
            if over:
                began_s = record.created
            if len(self._seen) > _TEXTS_MAX:
                self._seen.clear()
            self._seen[record.name, text] = (began_s, 1 if over else times + 1)
        if over and times > SAME_MAX:
            record.msg, record.args = f"{text} ({times - SAME_MAX} lines like this were left out)", ()
        return over or times < SAME_MAX
