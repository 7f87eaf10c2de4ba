"""Run a program that ends when the process that started it is gone, however that went.

Run as `python tether.py SIGNAL PARENT_PID PROGRAM ARG…`: asks Linux to send SIGNAL to this process when its parent
dies (PR_SET_PDEATHSIG), then becomes the program, which keeps its pid and that request. A program of its own
instead of a preexec_fn, because the latter can deadlock in a process that has threads. Imports only the standard
library, so that it starts in 10 ms. On systems without prctl the program runs untethered.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main() -> None:
    """Tether this process to its parent and become the program named in the arguments."""
    death_signal, parent_pid, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, death_signal)
        # The parent may have died before the request was made; then nobody would tell us any more.
        if os.getppid() != parent_pid:
            sys.exit(1)
    # A program started from a shell's background job inherits that SIGINT is ignored; some end by SIGINT.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.execvp(program[0], program)


if __name__ == "__main__":
    main()
