"""Rows of the table of faults in their short form, with one seed; `make faults` runs all rows in their full form.

Row 26 strikes what rows 1, 2, 3, 6, 10 and 13 strike, on one system. Limits in time have slack in the short form, since
other tests run beside these.
"""

import pytest

from tests.faults import table

SEED = 1
ROWS = (26, 4, 12, 14, 15, 16, 17, 18, 19, 20)


@pytest.mark.kill
@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", ROWS)
def test_row(row: int) -> None:
    """The system survives the fault of this row: it strikes, and every reading is there, once and unaltered."""
    report = table.run_row_alone(row, SEED, short=True)
    assert report["pass"], table.one_line(report)
