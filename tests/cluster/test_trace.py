"""docs/a-request.md names the modules that a request enters, in order: traced on a runtime of its own."""

import pytest

from benchmarks.trace import listed, trace
from tests.support import PROJECT

MOST_STATIONS = 22


@pytest.mark.cluster
@pytest.mark.timeout(600)
def test_a_text_request_enters_the_modules_of_the_page_in_their_order() -> None:
    stations = listed(PROJECT / "docs" / "a-request.md")
    assert len(stations) <= MOST_STATIONS
    assert trace() == stations
