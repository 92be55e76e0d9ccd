"""Tools as OpenAI's requests describe them, and the schema of calls that a request demands. Pure."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

_REFERENCES = ("#/$defs/", "#/definitions/")


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)


class FunctionTool(_Strict):
    name: Annotated[str, StringConstraints(pattern=r"^[a-zA-Z0-9_.-]{1,128}$")]
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class Tool(_Strict):
    type: Literal["function"]
    function: FunctionTool

    def for_template(self) -> dict[str, Any]:
        """With all that templates read without asking whether it is there: a description, parameters, properties.
        With `strict`, calls are held to the parameters."""
        function, parameters = self.function, {"type": "object", "properties": {}} | (self.function.parameters or {})
        described = {"name": function.name, "description": function.description or "", "parameters": parameters}
        return {"type": "function", "function": described | ({"strict": True} if self.function.strict else {})}


class _Named(_Strict):
    name: str


class NamedTool(_Strict):
    type: Literal["function"]
    function: _Named


ToolChoice = Literal["auto", "none", "required"] | NamedTool


def arguments_schema(tool: Tool) -> dict[str, Any]:
    return tool.function.parameters or {"type": "object", "additionalProperties": False}


def calls_schema(tools: list[Tool], most: int | None, answer: dict[str, Any] | None = None) -> dict[str, Any]:
    """A list of calls, at least one; or, where there is a schema for an answer, that."""
    definitions: dict[str, Any] = {}
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": tool.function.name}, "arguments": arguments},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for number, tool in enumerate(tools)
        for arguments in [_moved(arguments_schema(tool), f"tool{number}.", definitions)]
    ]
    several: dict[str, Any] = {"type": "array", "items": {"anyOf": calls}, "minItems": 1}
    if most is not None:
        several["maxItems"] = most
    schema = several if answer is None else {"anyOf": [_moved(answer, "answer.", definitions), several]}
    return schema | ({"$defs": definitions} if definitions else {})


def _moved(schema: Mapping[str, Any], prefix: str, definitions: dict[str, Any]) -> Any:
    """A schema to be put into another one: its own definitions go to `definitions`, under names with the prefix."""
    for key in ("$defs", "definitions"):
        for name, definition in schema.get(key, {}).items():
            definitions[prefix + name] = _renamed(definition, prefix)
    return _renamed({key: value for key, value in schema.items() if key not in ("$defs", "definitions")}, prefix)


def _renamed(schema: Any, prefix: str) -> Any:
    if isinstance(schema, list):
        return [_renamed(item, prefix) for item in schema]
    if not isinstance(schema, dict):
        return schema
    renamed = {key: _renamed(value, prefix) for key, value in schema.items()}
    reference = renamed.get("$ref")
    if isinstance(reference, str) and (own := next((own for own in _REFERENCES if reference.startswith(own)), None)):
        renamed["$ref"] = f"#/$defs/{prefix}{reference.removeprefix(own)}"
    return renamed
