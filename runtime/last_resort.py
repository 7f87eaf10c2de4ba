"""The end of a process in which no Python code runs any more: a C function that does not return keeps the interpreter's
lock, so no thread of ours, the watchdog's neither, can do anything about it.

A timer of the system (POSIX `timer_create`, SIGEV_THREAD) calls C's `_exit` in a thread that needs no interpreter. Just
before, `faulthandler`, which needs none either, writes to standard error where each thread is. Where the system has no
such timers (macOS) only the trace is written.
"""

import ctypes
import faulthandler
import sys
import time

SIGEV_THREAD = 2
EVERY_S = 1.0  # renewing starts a thread of faulthandler's; not more often
GRACE_S = 1.0  # between the trace and the end


class _Notice(ctypes.Structure):
    """C's `struct sigevent` on Linux."""

    _fields_ = [
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_byte * 32),
    ]


class _Setting(ctypes.Structure):
    """C's `struct itimerspec`: the interval, then the time until it expires."""

    _fields_ = [(name, ctypes.c_long) for name in ("every_s", "every_ns", "after_s", "after_ns")]


class LastResort:
    """Ends the process with exit code `code` when nobody calls `renew` for `after_s`."""

    def __init__(self, after_s: float, code: int) -> None:
        self._after_s = after_s
        self._renewed_s = 0.0
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._timer = ctypes.c_void_p()
        self._there = hasattr(self._libc, "timer_create")
        if self._there:
            exit_at_once = ctypes.cast(self._libc._exit, ctypes.c_void_p)
            notice = _Notice(value=code, notify=SIGEV_THREAD, function=exit_at_once)
            failed = self._libc.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(notice), ctypes.byref(self._timer))
            if failed:
                raise OSError(ctypes.get_errno(), "timer_create")
        self.renew()

    def renew(self) -> None:
        """Python still runs."""
        now = time.monotonic()
        if now - self._renewed_s < EVERY_S:
            return
        self._renewed_s = now
        faulthandler.dump_traceback_later(self._after_s, file=sys.__stderr__ or 2)
        self._set(self._after_s + GRACE_S)

    def cancel(self) -> None:
        """The process ends in its regular way."""
        faulthandler.cancel_dump_traceback_later()
        self._set(0.0)

    def _set(self, after_s: float) -> None:
        if self._there:
            whole = int(after_s)
            setting = _Setting(after_s=whole, after_ns=int((after_s - whole) * 1e9))
            self._libc.timer_settime(self._timer, 0, ctypes.byref(setting), None)
