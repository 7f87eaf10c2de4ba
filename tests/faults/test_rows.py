"""Rows of the table of faults in their short form, with one seed; `make faults` runs all rows in their full form.

Row 26 strikes what rows 1, 2, 3, 6, 10 and 13 strike, on one system.
"""

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from tests.faults import table

SEED = 1
ROWS = (16, 18, 19)
#: Those that need minutes.
LONG_ROWS = (26, 4, 5, 7, 11, 12, 14, 15, 17, 20, 22)
#: Rows mostly wait, for a process that starts or for a session that ends; limits in time have slack in the short form.
AT_ONCE = 2


@pytest.fixture(scope="module")
def runs(request: pytest.FixtureRequest) -> Iterator[dict[int, Future[table.Report]]]:
    """The rows of this run of pytest, begun in their order."""
    wanted = [item.callspec.params["row"] for item in request.session.items if item.function is test_row]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        yield {row: pool.submit(table.run_row_alone, row, SEED, short=True) for row in wanted}
        pool.shutdown(cancel_futures=True)


@pytest.mark.kill
@pytest.mark.timeout(900)
@pytest.mark.parametrize("row", [*ROWS, *(pytest.param(row, marks=pytest.mark.soak) for row in LONG_ROWS)])
def test_row(row: int, runs: dict[int, Future[table.Report]]) -> None:
    """The system survives the fault of this row: it strikes, and every reading is there, once and unaltered."""
    report = runs[row].result()
    assert report["pass"], table.one_line(report)
