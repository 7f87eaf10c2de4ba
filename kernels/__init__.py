"""Pure numerics: validation, estimation, twin, each one step function. No clock, no environment, no I/O, no random."""

from kernels.warming import warm_up

__all__ = ["warm_up"]
