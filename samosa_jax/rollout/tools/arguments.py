"""Whether the arguments of a tool call fit its schema: the part of JSON Schema that tools use.

Stricter than JSON Schema in one point: an object has no keys but those it names.
"""

import math
from collections.abc import Mapping
from typing import Any

_CHECKED = {"type", "properties", "required", "additionalProperties", "items", "enum", "minimum", "maximum"}
_ANNOTATIONS = {"description", "title", "default", "examples"}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list, tuple),
    "object": (Mapping,),
}


def check_schema(schema: Any, where: str) -> None:
    """Raises ValueError, naming `where`, if a schema says something that `check_arguments` does not check."""
    if not isinstance(schema, Mapping) or schema.get("type") not in list(_TYPES):
        raise ValueError(
            f'{where}: expected a schema with "type", one of {", ".join(_TYPES)}; found {schema!r}'
        )
    unknown = sorted(set(schema) - _CHECKED - _ANNOTATIONS)
    if unknown:
        raise ValueError(f"{where}: {', '.join(unknown)} in a schema is not checked; use {sorted(_CHECKED)}")
    if schema.get("additionalProperties", False) is not False:
        raise ValueError(f"{where}: additionalProperties can only be false")
    undefined = sorted(set(schema.get("required", ())) - set(schema.get("properties", {})))
    if undefined:
        raise ValueError(f"{where}: required {', '.join(undefined)} is not among the properties")
    for key, inner in schema.get("properties", {}).items():
        check_schema(inner, f"{where}.{key}")
    if "items" in schema:
        check_schema(schema["items"], f"{where}[]")


def check_arguments(value: Any, schema: Mapping[str, Any], where: str = "") -> str:
    """What is wrong with a value in one short line, or "" if it fits. `where` is the key it stands under."""
    named = f"argument {where!r}" if where else "the arguments"
    wanted = schema["type"]
    if not _has_type(value, wanted):
        return f"{named} should be of type {wanted}, found {_type_name(value)}"
    if "enum" in schema and value not in schema["enum"]:
        return f"{named} should be one of {', '.join(map(repr, schema['enum']))}"
    if wanted in ("integer", "number"):
        return _check_range(value, schema, named)
    if wanted == "object":
        return _check_object(value, schema, where)
    if wanted == "array" and "items" in schema:
        complaints = (check_arguments(v, schema["items"], f"{where}[{i}]") for i, v in enumerate(value))
        return next(filter(None, complaints), "")
    return ""


def _check_range(value: float, schema: Mapping[str, Any], named: str) -> str:
    if isinstance(value, float) and not math.isfinite(value):  # a whole number may not fit a float
        return f"{named} should be a finite number"
    if "minimum" in schema and value < schema["minimum"]:
        return f"{named} should be at least {schema['minimum']}"
    if "maximum" in schema and value > schema["maximum"]:
        return f"{named} should be at most {schema['maximum']}"
    return ""


def _check_object(value: Mapping[Any, Any], schema: Mapping[str, Any], where: str) -> str:
    properties = schema.get("properties", {})
    for key in schema.get("required", ()):
        if key not in value:
            return f"argument {_path(where, key)!r} is missing"
    for key, inner in value.items():
        if key not in properties:
            known = ", ".join(map(repr, properties)) or "none"
            return f"unknown argument {_path(where, str(key)[:40])!r}; known: {known}"
        if complaint := check_arguments(inner, properties[key], _path(where, key)):
            return complaint
    return ""


def _path(where: str, key: str) -> str:
    return f"{where}.{key}" if where else key


def _has_type(value: Any, wanted: str) -> bool:
    is_bool = isinstance(value, bool)  # which Python counts among the integers
    return isinstance(value, _TYPES[wanted]) and (is_bool == (wanted == "boolean"))


def _type_name(value: Any) -> str:
    if value is None:
        return "null"
    return next((name for name in _TYPES if _has_type(value, name)), type(value).__name__)
