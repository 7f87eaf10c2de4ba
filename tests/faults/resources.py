"""Memory and file handles of every process while a row runs, sampled once a second."""

import contextlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PERIOD_S = 1.0
MIB = 2**20


@dataclass(slots=True)
class Use:
    """Samples of one name over all its processes: (age of the process in samples, resident MiB, file handles)."""

    samples: list[tuple[int, float, int]] = field(default_factory=list)
    pid: int = 0
    age: int = 0

    def add(self, pid: int, rss_mib: float, handles: int) -> None:
        """One sample; a new process begins at age 0."""
        self.age = self.age + 1 if pid == self.pid else 0
        self.pid = pid
        self.samples.append((self.age, rss_mib, handles))

    def lives(self) -> list[list[tuple[float, int]]]:
        """For each of its processes the samples in the order of its age: (resident MiB, file handles)."""
        lives: list[list[tuple[float, int]]] = []
        for age, rss_mib, handles in self.samples:
            if age == 0:
                lives.append([])
            lives[-1].append((rss_mib, handles))
        return lives

    @property
    def rss_max_mib(self) -> float:
        """Most memory any of its processes had."""
        return max((rss for _, rss, _ in self.samples), default=0.0)

    @property
    def handles_max(self) -> int:
        """Most file handles any of its processes had."""
        return max((handles for _, _, handles in self.samples), default=0)


class Resources:
    """Samples `pids()` (name → pid) until closed."""

    def __init__(self, pids: Callable[[], Mapping[str, int]]) -> None:
        self.uses: dict[str, Use] = {}
        self._pids = pids
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="resources", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Sample no longer."""
        self._ending.set()
        self._thread.join(10)

    def memory_mib(self) -> dict[str, float]:
        """Memory of each process now."""
        return {name: use.samples[-1][1] for name, use in list(self.uses.items()) if use.samples}

    def grown(self, before_mib: Mapping[str, float], factor: float, allowance_mib: float) -> list[str]:
        """Which processes ever had more than `factor` × what they had before + `allowance_mib`; a sentence each."""
        return [
            f"{name} grew from {before:.0f} to {self.uses[name].rss_max_mib:.0f} MiB"
            for name, before in before_mib.items()
            if self.uses[name].rss_max_mib > factor * before + allowance_mib
        ]

    def summary(self) -> dict[str, dict[str, float]]:
        """Per name the most memory and handles, for the report."""
        return {
            name: {"rss_max_mib": round(use.rss_max_mib, 1), "handles_max": use.handles_max}
            for name, use in sorted(self.uses.items())
        }

    def write(self, path: Path) -> None:
        """All samples as CSV: a failing row keeps its folder, and whoever asks what grew finds them there."""
        with path.open("w") as file:
            file.write("name,sample,age,rss_mib,handles\n")
            for name, use in sorted(self.uses.items()):
                for n, (age, rss_mib, handles) in enumerate(use.samples):
                    file.write(f"{name},{n},{age},{rss_mib:.1f},{handles}\n")

    def _sample(self) -> None:
        while not self._ending.wait(PERIOD_S):
            for name, pid in self._pids().items():
                with contextlib.suppress(psutil.Error):
                    process = psutil.Process(pid)
                    use = self.uses.setdefault(name, Use())
                    use.add(pid, process.memory_info().rss / MIB, process.num_fds())
