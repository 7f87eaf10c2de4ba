"""Coverage-guided fuzzing with Atheris (libFuzzer): new inputs are kept where they reach new code.

`make fuzz`, or `python -m tests.fuzz.payload --minutes 10` and `python -m tests.fuzz.frame`. The corpus grows in
`.fuzz/<target>/`; an input that breaks something is written to `tests/fuzz/crashes/<target>/`, where `make test` tries
it again for ever. fastavro decodes in C, where Atheris sees nothing, so its Python twin reads every body first, only to
be watched.
"""

import argparse
import io
import sys
from contextlib import suppress
from pathlib import Path

import atheris

ROOT = Path(__file__).parents[2]
CRASHES = Path(__file__).parent / "crashes"
INPUT_BYTES_MAX = 16_384
INSTRUMENTED = [
    "schemas", "connectors.payload", "connectors.framer", "fastavro._read_py", "fastavro.io.binary_decoder",
    "store.line_protocol", "store.twin_lines",
]  # fmt: skip

with atheris.instrument_imports(include=INSTRUMENTED):
    import fastavro._read_py

    from tests.fuzz import targets


def try_payload(data: bytes) -> None:
    """One input of the target `payload`."""
    targets.check_payload(data)


def try_frame(data: bytes) -> None:
    """One input of the target `frame`."""
    if data:
        version = targets.versions()[data[0] % len(targets.versions())]
        with suppress(Exception):
            fastavro._read_py.schemaless_reader(io.BytesIO(data[1:]), version.parsed, None)
    targets.check_frame(data)


TARGETS = {"payload": try_payload, "frame": try_frame}


def main(target: str) -> None:
    """Fuzz one target for so many minutes; the exit code is not 0 where something broke."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    corpus = ROOT / ".fuzz" / target
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(targets.seeds(target)):
        (corpus / f"seed-{number}").write_bytes(data)
        TARGETS[target](data)  # what is compiled at first use is compiled now: no input is slow for that
    crashes = CRASHES / target
    crashes.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={round(60 * chosen.minutes)}", f"-seed={chosen.seed}", f"-max_len={INPUT_BYTES_MAX}",
        f"-artifact_prefix={crashes}/", "-print_final_stats=1", "-timeout=30", "-rss_limit_mb=2048",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *options, str(corpus)], TARGETS[target])
    atheris.Fuzz()
