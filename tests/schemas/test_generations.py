"""The plan of a rescale: which change is possible when."""

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from schemas.generations import Plan, PlanError

MARKS = {"raw": (1, 2, 3)}


def settled() -> Plan:
    """A system that was never rescaled."""
    return Plan.initial("twin", 4)


def test_a_rescale_from_begin_to_end() -> None:
    """Building, verifying, switching: then the new topics are at work and the old ones are kept for a rollback."""
    plan = settled().build("twin", 12)
    assert plan.phase == "building" and plan.target is not None
    assert (plan.target.prefix, plan.target.partitions) == ("twin.g2", 12)
    assert plan.active == settled().active
    plan = plan.verify(MARKS, MARKS).switch().activate(MARKS, MARKS)
    assert (plan.phase, plan.active.number, plan.target) == ("settled", 2, None)
    assert plan.previous == settled().active


def test_a_rollback_after_the_end() -> None:
    """Going back is a phase of its own; then the old topics are at work, and there is nothing to go back to."""
    plan = settled().build("twin", 12).verify(MARKS, MARKS).switch().activate(MARKS, MARKS).roll_back()
    assert plan.phase == "returning" and plan.active.number == 2 and plan.target == settled().active
    with pytest.raises(PlanError, match="rollback is under way"):
        plan.build("twin", 6)
    plan = plan.roll_back().returned()
    assert plan.active == settled().active
    with pytest.raises(PlanError, match="nothing to roll back"):
        plan.roll_back()


def test_what_is_refused() -> None:
    """No partitions, as many as there are, another number while a rescale is under way: each is said."""
    with pytest.raises(PlanError, match="0 partitions"):
        settled().build("twin", 0)
    with pytest.raises(PlanError, match="have 4 partitions already"):
        settled().build("twin", 4)
    with pytest.raises(PlanError, match="rescale to 12 partitions is under way"):
        settled().build("twin", 12).build("twin", 6)
    with pytest.raises(PlanError, match="building and not verifying"):
        settled().build("twin", 12).switch()


@pytest.mark.parametrize("text", [b"", b"[]", b"{}", b'{"active": 3}', b'{"active": {"number": 1}}'])
def test_a_record_that_cannot_be_read_is_an_error(text: bytes) -> None:
    """Whatever the record holds, a process never takes it for the configured topics."""
    with pytest.raises(PlanError, match="cannot be read"):
        Plan.decode(text)


class Operator(RuleBasedStateMachine):
    """Somebody who builds, goes on, fails and rolls back in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.plan = settled()
        self.prefixes: set[str] = set()

    @rule(partitions=st.integers(1, 6))
    def build(self, partitions: int) -> None:
        """No name is ever used twice, and what is at work stays so."""
        try:
            plan = self.plan.build("twin", partitions)
        except PlanError:
            return
        assert plan.target is not None and plan.target.prefix not in self.prefixes
        assert plan.active == self.plan.active
        self.prefixes.add(plan.target.prefix)
        self.plan = plan

    @precondition(lambda self: self.plan.phase in ("building", "verifying", "switching"))
    @rule()
    def go_on(self) -> None:
        """The phase after this one; it is at work only after the last."""
        steps = {
            "building": lambda: self.plan.verify(MARKS, MARKS),
            "verifying": self.plan.switch,
            "switching": lambda: self.plan.activate(MARKS, MARKS),
        }
        target, before = self.plan.target, self.plan
        self.plan = steps[before.phase]()
        assert self.plan.active == (target if before.phase == "switching" else before.active)

    @precondition(lambda self: self.plan.phase in ("building", "verifying", "switching"))
    @rule()
    def fail(self) -> None:
        """What is at work stays so."""
        active, self.plan = self.plan.active, self.plan.fail("why")
        assert self.plan.active == active

    @rule()
    def roll_back(self) -> None:
        """What is not at work is dropped; else the previous one is at work when it is done."""
        try:
            plan = self.plan.roll_back()
        except PlanError:
            return
        assert plan.active == self.plan.active
        self.plan = plan.returned() if plan.phase == "returning" else plan
        assert self.plan.target is None

    @rule()
    def written_and_read(self) -> None:
        """The record holds all of it."""
        assert Plan.decode(self.plan.encode()) == self.plan


TestOperator = Operator.TestCase
