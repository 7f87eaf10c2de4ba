"""`python -m cli.compile`: compiles the kernels once and leaves the result on disk, so that no agent waits for it."""

from agents.settings import kernel_settings
from kernels import warm_up
from runtime.config import Plant

if __name__ == "__main__":
    warm_up(kernel_settings(Plant()))
