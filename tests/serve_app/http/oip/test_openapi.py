"""The protocol's paths in the OpenAPI document."""

from typing import Any

from serve_app.http.oip.openapi import oip_paths


def test_every_schema_that_a_path_names_is_there() -> None:
    schemas: dict[str, Any] = {}
    paths = oip_paths(schemas)
    named = {part.split("'")[0] for part in repr((paths, schemas)).split("#/components/schemas/")[1:]}
    assert named == {"OipTensor", "OipFailure", "OipRequest", "OipResponse", "OipModel"} == schemas.keys()
