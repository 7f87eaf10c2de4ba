"""Reactor models by name. A new one is a file with a `MODEL`, an entry here, and its name in `runtime.config.Asset`."""

from kernels.models import batch_reactor, cstr
from kernels.models.model import Model

MODELS: dict[str, Model] = {m.name: m for m in (batch_reactor.MODEL, cstr.MODEL)}
