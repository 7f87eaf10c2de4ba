"""Which topics of a system are at work, and the plan of a rescale: the one record that says so, and how it may change.

A generation is a full set of topics: a prefix and a number of partitions. The configured ones are generation 1, later
ones have the prefix `<configured>.g<number>`. Everything stands in the topic `<configured>.generations`, whose last
record counts. May not know Kafka. Design: docs/decisions/0012-rescale.md.
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, Self

#: settled: nothing to do. Each other phase is recorded before its work begins, and its work may be begun again.
Phase = Literal["settled", "building", "verifying", "switching", "failed", "returning"]
#: Offsets: topic by its name in the table of topics → one per partition.
Marks = Mapping[str, tuple[int, ...]]

#: Kafka's settings of the topic of generations: a few records, kept for ever.
SETTINGS = {"cleanup.policy": "delete", "retention.ms": "-1"}


class PlanError(RuntimeError):
    """What was asked for is not possible now, and why."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Generation:
    """A full set of topics."""

    number: int
    prefix: str
    partitions: int

    def __str__(self) -> str:
        return f"generation {self.number} ({self.prefix}.*, {self.partitions} partitions)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is at work and what is being done about it.

    `target`: what is being built (`returning`: what is gone back to). `previous`: kept for a rollback. `highest`: the
    greatest number ever given, so that no name is used twice. `read_from`, `written_from`: what of the topics at work
    is not in the target since its history was copied, and where the target's own then begin; when settled, where the
    topics at work and the previous ones ended at the switch.
    """

    active: Generation
    phase: Phase = "settled"
    target: Generation | None = None
    previous: Generation | None = None
    highest: int = 1
    read_from: Marks = field(default_factory=dict)
    written_from: Marks = field(default_factory=dict)
    reason: str = ""

    @classmethod
    def initial(cls, prefix: str, partitions: int) -> Self:
        """Of a system that was never rescaled."""
        return cls(active=Generation(number=1, prefix=prefix, partitions=partitions))

    def build(self, prefix: str, partitions: int) -> Self:
        """Begin, or begin anew what was interrupted while it was built. Raises PlanError."""
        if partitions < 1:
            raise PlanError(f"{partitions} partitions: allowed is a number from 1")
        if self.phase == "returning":
            raise PlanError("a rollback is under way: `twin rescale --rollback` ends it")
        if self.target is not None and self.phase != "failed" and self.target.partitions != partitions:
            raise PlanError(
                f"a rescale to {self.target.partitions} partitions is under way ({self.phase}): run it again to go on, "
                "or `twin rescale --rollback` to drop it"
            )
        if self.active.partitions == partitions:
            raise PlanError(f"the topics at work have {partitions} partitions already")
        number = self.highest + 1
        target = Generation(number=number, prefix=f"{prefix}.g{number}", partitions=partitions)
        nothing: dict[str, Any] = {"previous": None, "read_from": {}, "written_from": {}, "reason": ""}
        return replace(self, phase="building", target=target, highest=number, **nothing)

    def verify(self, read_from: Marks, written_from: Marks) -> Self:
        """History is copied; from these marks on, records follow."""
        return self._next("building", "verifying", read_from=read_from, written_from=written_from)

    def switch(self) -> Self:
        """Both generations gave the same; from now on the one at work takes nothing more."""
        return self._next("verifying", "switching")

    def fail(self, reason: str) -> Self:
        """The target is not what it must be; nothing else has changed."""
        return replace(self, phase="failed", reason=reason)

    def activate(self, read_from: Marks, written_from: Marks) -> Self:
        """The target is at work now; the marks are the ends of its topics, and of those that were at work."""
        return self._next(
            "switching",
            "settled",
            active=self.target,
            previous=self.active,
            target=None,
            read_from=read_from,
            written_from=written_from,
        )

    def roll_back(self) -> Self:
        """Drop what is not at work yet; else go back to the previous generation. Raises PlanError."""
        if self.phase == "returning":
            return self
        if self.target is not None:
            return replace(self, phase="settled", target=None, reason="", read_from={}, written_from={})
        if self.previous is None:
            raise PlanError("there is nothing to roll back to")
        return replace(self, phase="returning", target=self.previous)

    def returned(self) -> Self:
        """The previous generation is at work again."""
        return self._next(
            "returning", "settled", active=self.target, previous=None, target=None, read_from={}, written_from={}
        )

    def prefixes(self) -> set[str]:
        """Of all generations that somebody needs."""
        return {one.prefix for one in (self.active, self.target, self.previous) if one is not None}

    def encode(self) -> bytes:
        """As the record holds it."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Raises PlanError."""
        try:
            raw: dict[str, Any] = json.loads(data)
            for name in ("active", "target", "previous"):
                raw[name] = raw[name] and Generation(**raw[name])
            for name in ("read_from", "written_from"):
                raw[name] = {topic: tuple(offsets) for topic, offsets in raw[name].items()}
            return cls(**raw)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise PlanError(f"the record of generations cannot be read by this version: {error!r}") from error

    def _next(self, before: Phase, after: Phase, **changes: Any) -> Self:
        if self.phase != before or self.target is None:
            raise PlanError(f"the rescale is {self.phase} and not {before}")
        return replace(self, phase=after, reason="", **changes)


def topic_name(prefix: str) -> str:
    """Full name of the topic of generations of a configured prefix."""
    return f"{prefix}.generations"
