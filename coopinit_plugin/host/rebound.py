"""Functions that hold the original network: ``copy.deepcopy`` takes them as they are; here they get the copy instead.

Such are a wrapped forward (``D.forward = torch.compile(D.forward)``), a hook or a lambda over ``self``, a weak
reference. Without this, the copy would run through the user's own layers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, MutableMapping
from functools import partial
from types import CellType, FunctionType, MethodType
from typing import Any

FIXED = (FunctionType, MethodType, CellType, partial, weakref.ref, tuple)  # made anew, since they cannot be changed


def rebind(memo: dict[int, Any]) -> None:
    """Let all that ``copy.deepcopy`` made refer to copies alone; its memo tells what each original has become."""
    copied = {key: value for key, value in memo.items() if key != id(memo)}  # this one holds the originals
    rebinder = _Rebinder(copied)
    for made in copied.values():
        for holder in (made, getattr(made, "__dict__", None)):
            if isinstance(holder, (MutableMapping, list)):
                for key, value in list(enumerate(holder) if isinstance(holder, list) else holder.items()):
                    if (new := rebinder.of(value)) is not value:
                        holder[key] = new


class _Rebinder:
    """Makes functions and containers that refer to an original again, so that they refer to its copy."""

    def __init__(self, copied: dict[int, Any]) -> None:
        self._ours = {id(value) for value in copied.values()}
        self._known = dict(copied)  # by id: what an original, a function, a variable or a container has become
        self._alive: list[Any] = []  # whose ids are in use

    def of(self, value: Any) -> Any:
        """The value with the copies in it; itself, if it refers to nothing that was copied."""
        if id(value) in self._ours and not isinstance(value, FIXED):
            return value
        if id(value) not in self._known:
            self._known[id(value)] = value  # if it holds itself
            self._alive.append(value)
            held, make = _taken_apart(value)
            new = [self.of(part) for part in held]
            if any(a is not b for a, b in zip(new, held, strict=True)):
                self._known[id(value)] = make(*new)
        return self._known[id(value)]


def _taken_apart(value: Any) -> tuple[tuple[Any, ...], Callable[..., Any]]:
    """What a value holds, and what makes such a value of that."""
    if isinstance(value, FunctionType):
        if (plain := vars(value).get("_torchdynamo_orig_callable")) is not None:  # compiled: the copy is not
            return (plain,), lambda function: function
        return (value.__closure__, value.__defaults__, value.__kwdefaults__, vars(value)), partial(_function, value)
    if isinstance(value, CellType):  # a variable of the functions inside another one
        return () if value == CellType() else (value.cell_contents,), CellType
    if isinstance(value, MethodType):
        return (value.__func__, value.__self__), MethodType
    if isinstance(value, partial):
        return (value.func, value.args, value.keywords), lambda f, given, named: partial(f, *given, **named)
    if type(value) in (weakref.ref, weakref.WeakMethod):
        return (value(),), type(value)
    if type(value) in (list, tuple, set):
        return (*value,), lambda *parts: type(value)(parts)
    if type(value) is dict:
        return (*value.values(),), lambda *parts: dict(zip(value, parts, strict=True))
    return (), tuple


def _function(old: FunctionType, closure: Any, defaults: Any, named_defaults: Any, attributes: Any) -> FunctionType:
    made = FunctionType(old.__code__, old.__globals__, old.__name__, defaults, closure)
    made.__kwdefaults__ = named_defaults
    vars(made).update(attributes)  # e.g. what it wraps
    return made
