"""Exit codes of our processes, so that a supervisor and a person know what happened."""

OK = 0
FAILED = 1
BAD_CONFIGURATION = 78  # sysexits.h EX_CONFIG: restarting does not help
RESTART_ME = 75  # sysexits.h EX_TEMPFAIL: left on purpose, without acknowledging; start me again at once
