"""Functions that hold the original network: ``copy.deepcopy`` takes them as they are; here they get the copy instead.

Such are a wrapped forward (``D.forward = torch.compile(D.forward)``), a hook or a lambda over ``self``, a weak
reference. Without this, the copy would run through the user's own layers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, MutableMapping
from functools import partial
from types import BuiltinMethodType, CellType, CodeType, FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

FIXED = (MethodType, BuiltinMethodType, partial, weakref.ref, tuple)  # made anew, since they cannot be changed


class Rebinder:
    """Replaces in what ``copy.deepcopy`` has made whatever still refers to what it was made of, by deepcopy's memo."""

    def __init__(self, memo: dict[int, Any]) -> None:
        self._memo = {key: value for key, value in memo.items() if key != id(memo)}
        self._ours = {id(value) for value in self._memo.values()}
        self._known: dict[int, Any] = {}  # by id: what a function, a cell or a container has become
        self._alive: list[Any] = []  # whose ids are in use

    def inside(self, owner: Any) -> None:
        """Rebind, in place, what a copied object or container holds."""
        if id(owner) in self._known:
            return
        self._known[id(owner)] = owner
        if isinstance(owner, (MutableMapping, list)):
            for key, value in list(enumerate(owner) if isinstance(owner, list) else owner.items()):
                if (new := self.of(value)) is not value:
                    owner[key] = new
        elif hasattr(owner, "__dict__") and not isinstance(owner, type):
            self.inside(vars(owner))

    def of(self, value: Any) -> Any:
        """The value with the copies in it; itself, if it refers to nothing that was copied."""
        if id(value) in self._memo:
            return self._memo[id(value)]
        if id(value) in self._ours and not isinstance(value, FIXED):
            self.inside(value)
            return value
        if id(value) not in self._known:
            self._known[id(value)] = value  # if it holds itself
            self._alive.append(value)
            self._known[id(value)] = self._anew(value)
        return self._known[id(value)]

    def _anew(self, value: Any) -> Any:
        if isinstance(value, FunctionType):
            return self._function(value)
        held, make = _taken_apart(value)
        new = [self.of(part) for part in held]
        return make(*new) if any(a is not b for a, b in zip(new, held, strict=True)) else value

    def _function(self, function: Any) -> Any:
        """The function with new cells, defaults and globals if they refer to what was copied; not compiled."""
        if (plain := vars(function).get("_torchdynamo_orig_callable")) is not None:
            return self.of(plain)
        told = {name: function.__globals__[name] for name in _names(function.__code__) if name in function.__globals__}
        told = {name: value for name, value in told.items() if _may_refer(value, function.__globals__)}
        cells = [cell for cell in function.__closure__ or () if cell != CellType()]  # not the empty ones
        held = [[cell.cell_contents for cell in cells], function.__defaults__, function.__kwdefaults__, told]
        new = [self.of(part) for part in held]
        if all(a is b for a, b in zip(new, held, strict=True)):
            return function
        contents, defaults, keywords, told = new
        for cell, content in zip(cells, contents, strict=True):  # functions that share a variable go on sharing it
            self._known.setdefault(id(cell), CellType(content))
        closure = tuple(self._known.get(id(cell), cell) for cell in function.__closure__ or ())
        variables = {**function.__globals__, **told} if told else function.__globals__
        made = FunctionType(function.__code__, variables, function.__name__, defaults, closure)
        made.__kwdefaults__ = keywords
        vars(made).update((name, self.of(value)) for name, value in vars(function).items())  # e.g. what it wraps
        for cell in closure:
            if cell != CellType() and cell.cell_contents is function:  # it calls itself
                cell.cell_contents = made
        return made


def _taken_apart(value: Any) -> tuple[tuple[Any, ...], Callable[..., Any]]:
    """What a value holds, and what makes such a value of that."""
    if isinstance(value, MethodType):
        return (value.__func__, value.__self__), MethodType
    if isinstance(value, BuiltinMethodType):  # e.g. the append of a list
        return (value.__self__,), lambda owner: getattr(owner, value.__name__)
    if isinstance(value, partial):
        return (value.func, value.args, value.keywords), lambda f, given, named: partial(f, *given, **named)
    if type(value) in (weakref.ref, weakref.WeakMethod):
        return (value(),), type(value)
    if type(value) in (list, tuple, set):
        return (*value,), lambda *parts: type(value)(parts)
    if type(value) is dict:
        return (*value.values(),), lambda *parts: dict(zip(value, parts, strict=True))
    return (), tuple


def _names(code: CodeType) -> Iterator[str]:
    """The global names that a function and those written inside it may use."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _may_refer(value: Any, variables: dict[str, Any]) -> bool:
    """Whether a global variable may stand for a part of the networks: itself, or a function of the same file."""
    if isinstance(value, FunctionType):
        return value.__globals__ is variables
    return isinstance(value, (nn.Module, Tensor, MethodType, partial, weakref.ref))
