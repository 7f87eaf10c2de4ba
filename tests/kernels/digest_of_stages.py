"""Prints a digest per stage over reproducible sequences: run by test_jit.py with the JIT on and off."""

import hashlib

from kernels.stages import STAGES
from runtime.config import Plant
from schemas.codec import encode
from tests.kernels.frame_strategies import EVERYTHING, frames_of, random_events, run

if __name__ == "__main__":
    for name in STAGES:
        digest = hashlib.sha256()
        for seed, plant in ((11, EVERYTHING), (12, Plant())):
            events = random_events(1500, seed)
            state, outputs = run(name, frames_of(events, [i % 40 == 0 for i in range(len(events))]), plant)
            for out in outputs:
                digest.update(encode(out))
            digest.update(encode(state))
        print(name, digest.hexdigest())
