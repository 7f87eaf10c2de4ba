"""Data sets are complete, and the journal keeps every digit."""

from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest

from plant.datasets import DIRECTORY, TE_TAGS, load
from plant.journal import Journal, read
from plant.physics import Reactors
from plant.samples import Sample, camel, node_id, topic
from plant.sensors import NOISE_LIMIT, SENSORS, Instruments

TE_FILES = sorted((DIRECTORY / "tennessee_eastman").glob("*.dat"))
NAB_FILE = DIRECTORY / "nab" / "machine_temperature_system_failure.csv"


@pytest.mark.parametrize("path", TE_FILES, ids=lambda path: path.stem)
def test_tennessee_eastman_is_complete(path: Path) -> None:
    """960 rows, 180 s apart, 52 columns with a unit each; every value is the number in the file, digit by digit."""
    found = load(path)
    assert (len(found.rows), len(found.tags), len(found.units)) == (960, 52, 52)
    assert all(found.units)
    assert {b.source_time_ns - a.source_time_ns for a, b in pairwise(found.rows)} == {180 * 10**9}
    printed = [" ".join(f"{v:.7e}" for v in row.values) for row in found.rows]
    assert printed == [" ".join(line.split()) for line in path.read_text().lower().splitlines()]


def test_tennessee_eastman_faults_start_at_row_161() -> None:
    """The file of normal operation has no fault; in the others the first 160 rows have none and all others one."""
    assert len(TE_FILES) == 3
    for path, asset, kind in zip(TE_FILES, ("TE00", "TE04", "TE13"), (None, "idv_04", "idv_13"), strict=True):
        found = load(path)
        assert found.asset == asset
        assert [row.fault for row in found.rows] == [None] * 160 + [kind] * 800


def test_tennessee_eastman_units_are_those_of_the_process() -> None:
    """Reactor pressure, level, temperature, cooling water outlet and flow, by their numbers in the literature."""
    found = load(TE_FILES[0])
    units = dict(zip(found.tags, found.units, strict=True))
    chosen = {tag: units[tag] for tag in ("xmeas_07", "xmeas_08", "xmeas_09", "xmeas_21", "xmeas_41", "xmv_10")}
    assert list(chosen.values()) == ["kPag", "%", "degC", "degC", "mol%", "%"]


def test_nab_is_complete_with_its_odd_times() -> None:
    """22,695 rows; twelve times are there twice, with other values, because an hour repeats; all in file order."""
    rows = load(NAB_FILE).rows
    assert len(rows) == 22_695
    twice = [time for time, n in Counter(row.source_time_ns for row in rows).items() if n > 1]
    assert len(twice) == 12
    assert len({(row.source_time_ns, row.values) for row in rows}) == 22_695
    back = [b.source_time_ns - a.source_time_ns for a, b in pairwise(rows)]
    assert Counter(back) == {300 * 10**9: 22_693, -3300 * 10**9: 1}
    lines = NAB_FILE.read_text().splitlines()[1:]
    assert [row.values[0] for row in rows] == [float(line.split(",")[1]) for line in lines]


def test_nab_windows_are_labelled() -> None:
    """Each of the four windows covers two days less 50 minutes: 567 rows, both ends included."""
    rows = load(NAB_FILE).rows
    starts = [i for i, row in enumerate(rows) if row.fault and not rows[i - 1].fault]
    assert len(starts) == 4
    assert sum(row.fault == "anomaly" for row in rows) == 4 * 567


def test_a_file_that_is_no_data_set_is_refused(tmp_path: Path) -> None:
    """With its name and what is allowed."""
    for name, text, problem in (
        ("a.txt", "", "allowed are .dat"),
        ("b.csv", "x,y\n", "x"),
        ("c.dat", "1 2\n", "line 1"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(ValueError, match=f"{name}.*{problem}"):
            load(tmp_path / name)


def test_names_on_topics_and_nodes() -> None:
    """MQTT topics keep the tag; nodes are CamelCase with PV or SV; a number at the end can be told apart."""
    assert topic("R101", "temperature_jacket") == "reactor/R101/sensor/temperature_jacket"
    assert node_id("R101", "flow_rate") == "Reactor.R101.FlowRate.PV"
    assert node_id("R101", "flow_rate.sv") == "Reactor.R101.FlowRate.SV"
    assert camel("xmeas_01") == "Xmeas_01"
    assert len({node_id("TE00", tag) for tag in TE_TAGS}) == 52


def test_the_journal_keeps_every_bit(tmp_path: Path) -> None:
    """Values come back from it with the same bits, texts and bytes as they are; two writers never mix."""
    base = Sample(asset="R1", tag="t", unit="%", protocol="mqtt", source_time_ns=2**62 + 1, value=-0.0, truth=0.1)
    values = [-0.0, 5e-324, 1e308, 0.1 + 0.2, 2.0**63]
    path = tmp_path / "journal.jsonl"
    with Journal(path, create=True) as one, Journal(path) as two:
        for i, value in enumerate(values):
            writer = (one, two)[i % 2]
            writer.reading(Sample(**{**fields(base), "value": value}), 7)
            writer.flush()
        one.reading(Sample(**{**fields(base), "value": None, "text": "Bad", "fault": "text", "repeat": True}), 8)
        one.reading(Sample(**{**fields(base), "value": None, "garbage": b"\xff{"}), 9)
        one.event({"event": "dropout", "asset": "R1"})
    *numbers, text, garbage, event = read(path)
    assert [line["value"] for line in numbers] == [value.hex() for value in values]
    assert {(line["source_time_ns"], line["sent_ns"], line["repeat"]) for line in numbers} == {(2**62 + 1, 7, False)}
    assert (text["value"], text["text"], text["fault"], text["repeat"]) == (None, "Bad", "text", True)
    assert (garbage["garbage"], bytes.fromhex(garbage["bytes"])) == (True, b"\xff{")
    assert event == {"event": "dropout", "asset": "R1"}


def test_a_new_run_empties_the_journal(tmp_path: Path) -> None:
    """Lines of an earlier run are gone; without a path nothing is written."""
    path = tmp_path / "journal.jsonl"
    path.write_text('{"event": "old"}\n')
    Journal(path, create=True).close()
    assert list(read(path)) == []
    with Journal(None, create=True) as nowhere:
        nowhere.event({"event": "x"})


def test_same_seed_same_readings() -> None:
    """Two plants with one seed give the same bits; another seed gives other noise."""

    def series(seed: int) -> list[list[Sample]]:
        plant, instruments, found = Reactors(2), Instruments(2, seed), []
        for n in range(1, 50):
            plant.step(0.1)
            found.append(instruments.read(plant, n * 100_000_000))
        return found

    assert series(5) == series(5)
    assert series(5) != series(6)


def test_sensors_are_as_noisy_as_they_say() -> None:
    """Standard deviation within 6 % over 4,000 readings, none beyond four of them; times of a tag never meet."""
    plant, instruments = Reactors(1), Instruments(1, 3)
    series: dict[str, list[Sample]] = {s.tag: [] for s in SENSORS}
    for n in range(1, 4001):
        for sample in instruments.read(plant, n * 100_000_000):
            series[sample.tag].append(sample)
    for sensor in SENSORS:
        errors = [(s.value or 0.0) - (s.truth or 0.0) for s in series[sensor.tag]]
        rounding = 0.5 * 10**-sensor.decimals
        assert max(map(abs, errors)) <= NOISE_LIMIT * sensor.noise + rounding * 1.001
        if sensor.noise:
            assert (sum(e * e for e in errors) / len(errors)) ** 0.5 == pytest.approx(sensor.noise, rel=0.06)
        times = [s.source_time_ns for s in series[sensor.tag]]
        assert len(set(times)) == len(times)
        assert all(n * 10**8 - 501_000 <= time <= n * 10**8 for n, time in enumerate(times, 1))
        assert all(time % sensor.precision_ns == 0 for time in times)


def fields(sample: Sample) -> dict[str, object]:
    """All fields of a sample."""
    return {name: getattr(sample, name) for name in Sample.__slots__}
