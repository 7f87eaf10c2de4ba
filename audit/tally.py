"""What was found in one place: faults, which must be none, and figures, which may be anything."""

from collections.abc import Sequence


class Tally:
    """Counts faults and figures by name; keeps the first few sentences about each fault."""

    def __init__(self, faults: Sequence[str], figures: Sequence[str] = (), example_count: int = 10) -> None:
        self.faults = dict.fromkeys(faults, 0)
        self.figures = dict.fromkeys(figures, 0)
        self.examples: dict[str, list[str]] = {}
        self._example_count = example_count

    def fault(self, name: str, sentence: str) -> None:
        """One more of a kind that must not be."""
        self.faults[name] += 1
        examples = self.examples.setdefault(name, [])
        if len(examples) < self._example_count:
            examples.append(sentence)

    def figure(self, name: str, count: int = 1) -> None:
        """So many more of a kind that may be."""
        self.figures[name] += count

    @property
    def clean(self) -> bool:
        """No fault was found."""
        return not any(self.faults.values())
