"""What the outputs and states should be: the result of a fold of the same readings in one process, from a file.

The file is JSON (bytes in base64) and says, per stage, the digest of every output (`audit.streams`: 8 bytes of blake2b
per seq, zeros where there is none) and the state of every asset:

    {"raw": {"0": [start, end], …},                        offsets of raw that were folded, per partition
     "stages": {"validation": {
         "outputs": [[asset, source, epoch, digests], …],
         "states": {asset: StageState in the codec's bytes}}, …},
     "twin": {asset: the last TwinState in the codec's bytes}}

Who writes it is not known here.
"""

from base64 import b64decode
from collections.abc import Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import orjson

from audit.kafka import Span
from audit.streams import DIGEST_BYTES, NONE, Key


class ExpectedError(ValueError):
    """A file that does not say what is expected, or says it about something else."""


@dataclass(frozen=True, slots=True)
class ExpectedStage:
    """Outputs and states of one stage."""

    outputs: dict[Key, bytes]
    states: dict[str, bytes]

    def digest(self, key: Key, seq: int) -> bytes:
        """Digest of an output; zeros where none is expected."""
        return self.outputs.get(key, b"")[seq * DIGEST_BYTES : (seq + 1) * DIGEST_BYTES] or NONE


@dataclass(frozen=True, slots=True)
class Expected:
    """The file."""

    raw: dict[int, Span]
    stages: dict[str, ExpectedStage]
    twin: dict[str, bytes]

    def without(self, assets: Set[str]) -> Self:
        """The same without some assets."""
        stages = {
            name: ExpectedStage(
                outputs={key: digests for key, digests in stage.outputs.items() if key.asset not in assets},
                states={asset: state for asset, state in stage.states.items() if asset not in assets},
            )
            for name, stage in self.stages.items()
        }
        twin = {asset: state for asset, state in self.twin.items() if asset not in assets}
        return replace(self, stages=stages, twin=twin)


def load(path: Path) -> Expected:
    """Read the file. Raises ExpectedError."""
    try:
        plain: Any = orjson.loads(path.read_bytes())
        return Expected(
            raw={int(partition): Span(*span) for partition, span in plain["raw"].items()},
            stages={name: _stage(stage) for name, stage in plain["stages"].items()},
            twin={asset: b64decode(data) for asset, data in plain["twin"].items()},
        )
    except OSError as error:
        raise ExpectedError(f"{path}: cannot be read ({error.strerror})") from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ExpectedError(f"{path}: {error!r}") from error


def _stage(plain: Any) -> ExpectedStage:
    return ExpectedStage(
        outputs={Key(asset, source, epoch): b64decode(data) for asset, source, epoch, data in plain["outputs"]},
        states={asset: b64decode(data) for asset, data in plain["states"].items()},
    )
