"""What `model-runtime models` prints."""

from deployments.contract.status import Plan
from serve_app.cli.models import _details, _plan, _row, table
from serve_app.registry.status import model_statuses
from tests.serve_app.registry.test_status import REPLICAS, TABLE


def test_a_model_is_a_row_of_the_table_and_a_page_of_its_own() -> None:
    (row,) = model_statuses(TABLE, REPLICAS)
    assert table([_row(row)]) == "org/m  2 of 1,2,3  text_generation  ready  3.0 MiB  pinned, org/m@3: broken"
    details = _details(row)
    assert "refused org/m@3  broken" in details
    assert "x: version 2, ready, 3.0 MiB, 2 loads" in details
    assert "all its models 5.0 MiB of 64.0 MiB, its process 410.0 MiB, 400.0 MiB at rest, 0.0 MiB leaked" in details
    assert "its last unload, of 3.0 MiB, took the process from 412.0 MiB to 409.0 MiB" in details


def test_a_plan_is_a_row() -> None:
    plan = Plan("x", "m", False, True, 2**20, True, 5 * 2**20, evicts=("other",), seconds=0.25)
    assert _plan(plan) == [
        "x",
        "fits",
        "needs 1.0 MiB (measured)",
        "5.0 MiB free",
        "in about 0.25 s, other would go",
    ]
