"""The table of families: what a row gives is whole, and is read without Ray and torch."""

import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

from deployments.contract.types import ImageClassification, TextGeneration
from deployments.families.image_classification.family import IMAGE_CLASSIFICATION
from deployments.families.table import FAMILIES
from deployments.families.text_generation.family import TEXT_GENERATION
from deployments.replica.family import Family, model_formats
from deployments.replica.replica import Replica
from tests.support import PROJECT
from tests.support.echo import ECHO

ROWS = (*FAMILIES, ECHO)


@pytest.mark.parametrize("family", ROWS, ids=lambda family: family.name)
def test_a_row_names_its_replica_and_fields_that_its_request_has(family: Family) -> None:
    assert issubclass(family.replica, Replica)
    fields = family.request.model_fields.keys()
    assert family.name not in {other.name for other in ROWS if other is not family}
    if family.form:
        assert {family.form.field, *family.form.integers, *family.form.fractions} <= fields
        assert family.form.request is family.request
    if family.client:
        assert {argument.field for argument in family.client.arguments} <= fields
    if family.sample:
        assert isinstance(family.request_for("m", family.sample.fields), family.request)


def test_names_that_callers_choose_a_family_by_are_given_once() -> None:
    for chosen in ([f.form.file for f in ROWS if f.form], [f.client.name for f in ROWS if f.client]):
        assert len(set(chosen)) == len(chosen)


def test_the_table_is_read_without_ray_and_torch() -> None:
    """The command line reads it, and does not wait for them."""
    check = "import sys, deployments.families.table; sys.exit(bool({'torch', 'ray'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", check], cwd=PROJECT, check=False).returncode == 0


def test_only_families_with_models_have_a_format() -> None:
    assert model_formats(ROWS).keys() == {family.name for family in FAMILIES}


def test_a_path_stands_for_the_bytes_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"picture")
    request = IMAGE_CLASSIFICATION.request_for("m", {"image_data": tmp_path / "a.png", "top_k": None})
    assert request == ImageClassification(model_id="m", image_data=b"picture")
    with pytest.raises(FileNotFoundError):
        IMAGE_CLASSIFICATION.request_for("m", {"image_data": tmp_path / "none.png"})


def test_a_field_of_the_wrong_kind_is_refused() -> None:
    good = TEXT_GENERATION.request_for("m", {"prompt": "p", "max_tokens": 1})
    assert good == TextGeneration(model_id="m", prompt="p", max_tokens=1)
    with pytest.raises(ValidationError):
        TEXT_GENERATION.request_for("m", {"prompt": "p", "max_tokens": -1})
