"""The configuration as the kernels take it: plain mappings."""

from kernels.stage import Settings
from runtime.config import Plant


def kernel_settings(plant: Plant) -> Settings:
    """What the configuration says to the stages."""
    return Settings(
        tag=lambda asset, tag: plant.tag(asset, tag).model_dump(),
        asset=lambda asset: plant.asset(asset).model_dump(),
        twin=plant.twin.model_dump(),
    )
