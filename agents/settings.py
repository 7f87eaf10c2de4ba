"""The configuration as the kernels take it: plain mappings."""

from kernels.settings import kernel_settings

__all__ = ["kernel_settings"]
