"""What a configuration says to the stages, as plain mappings. May not know: where the configuration comes from."""

from typing import Any, Protocol

from kernels.stage import Settings


class Table(Protocol):
    """A table of the configuration."""

    def model_dump(self) -> dict[str, Any]:
        """Its keys and values."""


class Configuration(Protocol):
    """What of `runtime.config.Plant` concerns the kernels."""

    @property
    def twin(self) -> Table:
        """The twin stage."""

    def tag(self, asset: str, tag: str) -> Table:
        """One tag of an asset."""

    def asset(self, asset: str) -> Table:
        """One asset."""


def kernel_settings(plant: Configuration) -> Settings:
    """What the configuration says to the stages."""
    return Settings(
        tag=lambda asset, tag: plant.tag(asset, tag).model_dump(),
        asset=lambda asset: plant.asset(asset).model_dump(),
        twin=plant.twin.model_dump(),
    )
