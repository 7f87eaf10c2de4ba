"""Each fault changes exactly what it says."""

from dataclasses import replace
from typing import Any

import pytest

from plant.faults import GARBAGE, ONLY, TOUCHES, Fault, Injector, check
from plant.samples import Sample
from plant.script import demo_script
from plant.sensors import SENSORS, Instruments

START_NS = 1_700_000_000_000_000_000
TICKS = 100


def sample(n: int, tag: str = "temperature", protocol: Any = "mqtt") -> Sample:
    """The n-th of a rising series, 10 per second."""
    return Sample(
        asset="R101",
        tag=tag,
        unit="degC",
        protocol=protocol,
        source_time_ns=START_NS + n * 100_000_000,
        value=80.0 + n / 8,
        truth=80.0,
    )


def run(fault: Fault, cycle_s: float | None = None, ticks: int = TICKS) -> tuple[dict[int, list[Sample]], Injector]:
    """What is sent at every tick of a series with this fault."""
    injector = Injector((fault,), cycle_s)
    protocol = ONLY.get(fault.kind, "mqtt")
    sent = {n: injector.apply([sample(n, protocol=protocol)], n / 10) for n in range(ticks)}
    return sent, injector


def fault(kind: str, **changes: Any) -> Fault:
    """A fault from 2 s to 4 s."""
    return replace(Fault(kind=kind, asset="R101", tag="temperature", start_s=2.0, duration_s=2.0), **changes)


def healthy(n: int, kind: str) -> Sample:
    """The n-th sample as it would be without faults."""
    return sample(n, protocol=ONLY.get(kind, "mqtt"))


INSIDE = range(20, 40)


@pytest.mark.parametrize("kind", sorted(TOUCHES))
def test_outside_its_span_a_fault_changes_nothing(kind: str) -> None:
    """Before and after the fault, every sample leaves as it is, at its time; late ones may follow."""
    sent, _ = run(fault(kind, size=0.5))
    for n in range(TICKS):
        if n not in INSIDE:
            assert [s for s in sent[n] if s.fault is None] == [healthy(n, kind)]


def only(sent: dict[int, list[Sample]]) -> list[Sample]:
    """The samples of the span, of which there is one per tick, all of them labelled."""
    found = [s for n in INSIDE for s in sent[n]]
    assert len(found) == len(INSIDE)
    assert len({s.fault for s in found}) == 1
    return found


def test_a_spike_changes_the_value_by_its_share() -> None:
    """Only the value, by 41 %."""
    expected = [replace(sample(n), value=(80.0 + n / 8) * 1.41, fault="spike") for n in INSIDE]
    assert only(run(fault("spike", size=0.41))[0]) == expected


def test_a_step_adds_its_size() -> None:
    """Only the value, by 4."""
    expected = [replace(sample(n), value=84.0 + n / 8, fault="step") for n in INSIDE]
    assert only(run(fault("step", size=4.0))[0]) == expected


def test_out_of_range_is_the_value_it_says() -> None:
    """Only the value, now 500."""
    expected = [replace(sample(n), value=500.0, fault="out_of_range") for n in INSIDE]
    assert only(run(fault("out_of_range", size=500.0))[0]) == expected


def test_a_stuck_sensor_repeats_its_value_with_new_times() -> None:
    """Only the value: that of the first."""
    expected = [replace(sample(n), value=82.5, fault="stuck") for n in INSIDE]
    assert only(run(fault("stuck"))[0]) == expected


def test_drift_grows_evenly_to_its_size() -> None:
    """Only the value, by size times the share of the time that is over."""
    found = only(run(fault("drift", size=3.0))[0])
    for n, s in zip(INSIDE, found, strict=True):
        assert s.value == pytest.approx(80.0 + n / 8 + 3.0 * (n - 20) / 20)
        assert replace(s, value=None) == replace(sample(n), value=None, fault="drift")


def test_text_replaces_the_number() -> None:
    """No value, the two texts in turn."""
    texts = ["Bad", "Inp OutRange"] * 10
    expected = [replace(sample(n), value=None, text=text, fault="text") for n, text in zip(INSIDE, texts, strict=True)]
    assert only(run(fault("text"))[0]) == expected


def test_clock_skew_moves_the_time_only() -> None:
    """Times are ahead by what it says."""
    expected = [
        replace(s := sample(n), source_time_ns=s.source_time_ns + 907_500_000_000, fault="clock_skew") for n in INSIDE
    ]
    assert only(run(fault("clock_skew", size=907.5))[0]) == expected


def test_status_codes_are_uncertain_with_value_and_bad_without() -> None:
    """UncertainLastUsableValue keeps the value, BadSensorFailure has none."""
    uncertain = only(run(fault("status_uncertain"))[0])
    assert {(s.status, s.value is None) for s in uncertain} == {(0x40900000, False)}
    assert {(s.status, s.value is None) for s in only(run(fault("status_bad"))[0])} == {(0x808C0000, True)}
    assert [replace(s, status=0, fault=None) for s in uncertain] == [sample(n, protocol="opcua") for n in INSIDE]


def test_a_dropout_sends_nothing_and_is_noted() -> None:
    """No sample in the span; the event says which were swallowed."""
    sent, injector = run(fault("dropout"))
    assert [n for n in range(TICKS) if not sent[n]] == list(INSIDE)
    (event,) = injector.events()
    assert event == {
        "event": "dropout",
        "kind": "dropout",
        "asset": "R101",
        "tag": "temperature",
        "from_ns": sample(20).source_time_ns,
        "to_ns": sample(39).source_time_ns,
        "readings": 20,
    }


def test_late_samples_come_later_but_unchanged() -> None:
    """Every fourth comes 1.2 s after its turn, with its own time; none is lost."""
    sent, _ = run(fault("late", size=1.2, every=4))
    late = {n: s for n in sent for s in sent[n] if s.fault == "late"}
    assert sorted(late) == [32, 36, 40, 44, 48]
    assert all(s == replace(sample(n - 12), fault="late") for n, s in late.items())


def test_late_samples_left_at_the_end_are_not_forgotten() -> None:
    """What is still held back when the run ends comes out of `rest`, and the fault is noted."""
    sent, injector = run(fault("late", size=60.0, every=4))
    assert not any(s.fault for n in sent for s in sent[n])
    assert [s.source_time_ns for s in injector.rest()] == [sample(n).source_time_ns for n in (20, 24, 28, 32, 36)]
    assert [event["readings"] for event in injector.events()] == [5]


def test_repeated_samples_leave_twice() -> None:
    """The second is the same but for its mark."""
    sent, _ = run(fault("repeat", every=10))
    assert [n for n in sent if len(sent[n]) == 2] == [20, 30]
    first, second = sent[20]
    assert second == replace(first, repeat=True)
    assert first == replace(sample(20), fault="repeat")


def test_garbage_comes_beside_the_reading() -> None:
    """The reading is sent as ever, and something that cannot be parsed."""
    sent, _ = run(fault("garbage"))
    assert [sent[n][0] for n in INSIDE] == [replace(sample(n), fault="garbage") for n in INSIDE]
    assert {sent[n][1].garbage for n in INSIDE} == set(GARBAGE)


def test_a_cycle_brings_every_fault_again() -> None:
    """With a cycle of 5 s, a spike at 2 s is there at 2, 7 and 12 s."""
    sent, injector = run(fault("spike", duration_s=0.0, size=1.0), cycle_s=5.0, ticks=150)
    assert [n for n in sent if sent[n][0].fault] == [20, 70, 120]
    assert len(injector.events()) == 3


@pytest.mark.parametrize(
    ("faults", "problem"),
    [
        ([fault("spike", tag="nothing")], "has no tag R101/nothing"),
        ([fault("melt")], "unknown kind"),
        ([fault("status_bad")], "only possible over opcua"),
        ([fault("text", tag="ph")], "only possible over mqtt"),
        ([fault("spike"), fault("step", start_s=3.0)], "overlaps"),
        ([fault("spike", every=0)], "every must be"),
    ],
)
def test_a_script_that_cannot_be_is_refused(faults: list[Fault], problem: str) -> None:
    """With a sentence that names the fault."""
    tags: Any = {("R101", s.tag): s.protocol for s in SENSORS}
    with pytest.raises(ValueError, match=problem):
        check(faults, tags)


@pytest.mark.parametrize("seconds", [20.0, 60.0, 600.0, None])
def test_the_demos_script_has_every_kind_and_fits_its_time(seconds: float | None) -> None:
    """Every kind there is happens, on tags that can have it, and is over before the run is."""
    assets = Instruments(3, 1).assets
    script = demo_script(assets, seconds)
    check(script, {(a, s.tag): s.protocol for a in assets for s in SENSORS})
    assert {f.kind for f in script} == set(TOUCHES)
    assert max(f.start_s + f.duration_s for f in script) < (seconds or 60.0)
