"""Every row of the table of faults, in its short form, with one seed; `make faults` runs the full forms."""

import pytest

from tests.faults import table

SEED = 1


@pytest.mark.kill
@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", table.row_numbers())
def test_row(row: int) -> None:
    """The system survives the fault of this row: it strikes, and every reading is there, once and unaltered."""
    report = table.run_row_alone(row, SEED, short=True)
    assert report["pass"], table.one_line(report)
