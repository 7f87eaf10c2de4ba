"""Fuzz the decoder of the body of an Avro record: see `tests/fuzz/engine.py`."""

from tests.fuzz.engine import main

if __name__ == "__main__":
    main("frame")
