"""Fuzz the decoder of the payload of an MQTT message: see `tests/fuzz/engine.py`."""

from tests.fuzz.engine import main

if __name__ == "__main__":
    main("payload")
