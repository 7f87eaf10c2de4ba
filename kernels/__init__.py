"""Pure numerics: validation, estimation, twin, each one step function. No clock, no environment, no I/O, no random."""
