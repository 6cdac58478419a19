"""Values of annotated types, dataclasses above all, from JSON that anybody may have written."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import is_dataclass
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def from_json(kind: Any, value: Any) -> Any:
    """Read what ``json.loads`` gave as a value of an annotated type, such as ``dict[str, float]`` or a dataclass.

    Raises:
        TypeError, ValueError: if it is of another type, or a dataclass lacks fields or has unknown ones.
    """
    outer, inner = get_origin(kind), get_args(kind)
    if outer in (Union, UnionType):
        for one in inner:
            with suppress(TypeError):
                return from_json(one, value)
    elif is_dataclass(kind) and isinstance(value, dict):
        hints = get_type_hints(kind)
        return kind(**{name: from_json(hints.get(name, Any), part) for name, part in value.items()})  # type: ignore[operator]
    elif outer is dict and isinstance(value, dict):
        return {name: from_json(inner[1], part) for name, part in value.items()}
    elif outer is list and isinstance(value, list):
        return [from_json(inner[0], part) for part in value]
    elif outer is tuple and isinstance(value, list):
        return tuple(from_json(one, part) for one, part in zip(inner, value, strict=True))
    elif kind is float and type(value) is int:
        return float(value)
    elif kind is Any or type(value) is kind or (outer is Literal and value in inner):
        return value
    raise TypeError(f"{value!r:.80} is no {getattr(kind, '__name__', kind)}")
