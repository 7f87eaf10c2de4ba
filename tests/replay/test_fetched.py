"""Runs in topics give the same tables as runs in folders, on a real broker."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from confluent_kafka import Producer

from replay.results import finished as results
from replay.results.fetched import LIVE, fetch
from replay.results.finished import TABLES, ResultError
from replay.results.provenance import Provenance, publish
from replay.results.writers import create_run_topics
from runtime.config import Kafka
from runtime.kafka import client_settings, create_topics
from schemas.codec import encode
from schemas.topics import ESTIMATES, STATE
from tests.replay import made_runs

pytestmark = pytest.mark.services


def test_topics_of_a_run_are_read_as_its_folder_is(kafka: str, tmp_path: Path) -> None:
    """Row by row the same, also where records came twice; with the provenance that the topic of runs has."""
    settings, value = made_runs.settings(), np.sin(np.arange(120.0)) + 80.0
    raw = made_runs.frames("R101", {"temperature": value, "level": value / 2.0})
    folder = made_runs.write(tmp_path / "folder", {"R101": raw}, settings)
    plain = Kafka(bootstrap=kafka, prefix="fetched", partitions=2)
    of_run = create_run_topics(plain, "one")
    producer = Producer({**client_settings(plain), "enable.idempotence": True})
    for estimates, state in made_runs.results("R101", raw, settings) * 2:
        producer.produce(ESTIMATES.full_name(of_run.prefix), encode(estimates), b"R101", 1)
        producer.produce(STATE.full_name(of_run.prefix), encode(state), b"R101", 1)
    assert producer.flush(30) == 0
    said = Provenance(run="one", params="old", code="", source="", from_ms=None, to_ms=None, assets=(), offsets={},
                      state="nothing", frames="as-live", to="topics", workers=1)  # fmt: skip
    for one in (said, replace(said, run="other"), replace(said, params="new")):
        publish(plain, one)
    run = results.load(fetch(plain, "one", tmp_path))
    (found,), (expected,) = run.by_asset(), results.load(folder).by_asset()
    for name in TABLES:
        pd.testing.assert_frame_equal(getattr(found, name), getattr(expected, name), check_categorical=False)
    assert run.provenance["params"] == "new"
    with pytest.raises(ResultError, match="run 'two': there is no topic"):
        fetch(plain, "two", tmp_path)


def test_a_run_in_topics_that_did_not_end_is_refused(kafka: str, tmp_path: Path) -> None:
    """Its record comes last: without one nothing is known to be whole. What runs live never ends and has none."""
    raw = made_runs.frames("R101", {"temperature": np.full(60, 80.0)})
    plain = Kafka(bootstrap=kafka, prefix="unfinished", partitions=1)
    of_run = create_run_topics(plain, "killed")
    create_topics(plain, (ESTIMATES, STATE))
    producer = Producer({**client_settings(plain), "enable.idempotence": True})
    for estimates, state in made_runs.results("R101", raw, made_runs.settings()):
        for prefix in (of_run.prefix, plain.prefix):
            producer.produce(ESTIMATES.full_name(prefix), encode(estimates), b"R101")
            producer.produce(STATE.full_name(prefix), encode(state), b"R101")
    assert producer.flush(30) == 0
    with pytest.raises(ResultError, match=r"run 'killed': unfinished\.runs has no record.* again under a new name"):
        fetch(plain, "killed", tmp_path)
    assert results.load(fetch(plain, LIVE, tmp_path)).counts() == {"R101": 60}
