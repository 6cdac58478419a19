"""The tensors in a batch and in a network's output: named, found again, described."""

from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map

HALF = (torch.float16, torch.bfloat16)


class Part(NamedTuple):
    """One tensor of a nest."""

    name: str  # as a user writes it, e.g. batch['image']
    keys: tuple[Any, ...]  # where it stands
    tensor: Tensor

    @property
    def has_rows(self) -> bool:
        """Whether it holds several numbers a sample, in one row."""
        return self.tensor.ndim == 2 and self.tensor.shape[1] > 1

    @property
    def is_labels(self) -> bool:
        """Whether it may be labels: whole numbers, one a sample, or one-hot rows."""
        tensor = self.tensor
        if self.has_rows:
            return bool(((tensor == 0) | (tensor == 1)).all() and (tensor.sum(1) == 1).all())
        whole = not tensor.is_floating_point() and not tensor.is_complex()
        return whole and tensor.ndim > 0 and tensor.shape[1:] in ((), (1,))

    @property
    def is_data(self) -> bool:
        """Whether it may be data: floating point, one row a sample, and no labels."""
        tensor = self.tensor
        return tensor.is_floating_point() and tensor.ndim >= 2 and tensor.numel() > 0 and not self.is_labels


def items(nest: Any) -> dict[Any, Any]:
    """What a mapping, list or tuple holds, by key or index; nothing for any other value."""
    return dict(nest if isinstance(nest, Mapping) else enumerate(nest if isinstance(nest, (list, tuple)) else ()))


def parts(nest: Any, root: str = "batch", keys: tuple[Any, ...] = ()) -> Iterator[Part]:
    """Each tensor in nested lists, tuples and mappings."""
    if isinstance(nest, Tensor):
        yield Part(root + "".join(f"[{key!r}]" for key in keys), keys, nest)
    for key, value in items(nest).items():
        yield from parts(value, root, (*keys, key))


def get(nest: Any, keys: tuple[Any, ...]) -> Any:
    """What stands in the nest under the keys."""
    return reduce(lambda part, key: part[key], keys, nest)


def only_tensors(nest: Any) -> Any:
    """The nest as plain dicts, lists and tuples, without what is no tensor."""
    if isinstance(nest, Tensor):
        return nest
    kept = {key: only_tensors(value) for key, value in items(nest).items() if any(parts(value))}
    return kept if isinstance(nest, Mapping) else list(kept.values()) if isinstance(nest, list) else (*kept.values(),)


def describe(value: Any) -> str:
    """A value as its users know it: shape and dtype of tensors, containers around them."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if not isinstance(value, (Mapping, list, tuple)):
        return type(value).__name__
    keyed = isinstance(value, Mapping)
    shown = [f"{key!r}: " * keyed + describe(part) for key, part in islice(items(value).items(), 8)]
    shown += ["..."] * (len(value) > 8)
    text = f"{len(value)} of {shown[0]}" if len(value) > 1 and len(set(shown)) == 1 else ", ".join(shown)
    return f"{{{text}}}" if keyed else f"[{text}]" if isinstance(value, list) else f"({text})"


def first_line(error: BaseException) -> str:
    """An error as one short line."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:200]}" if text else type(error).__name__


def batch_size(batch: Any) -> int | None:
    """The length of the first dimension of the first tensor that has one."""
    return next((int(part.tensor.shape[0]) for part in parts(batch) if part.tensor.ndim), None)


def mapped(f: Callable[[Any], Any], nest: Any) -> Any:
    """The nest with f of each of its leaves; a single tensor is not walked through, for speed."""
    return f(nest) if isinstance(nest, Tensor) else tree_map(f, nest)


def move(nest: Any, device: torch.device | None) -> Any:
    """Everything in the nest that can be moved, on the device; half precision made single, as the networks are."""
    if isinstance(nest, Mapping) and not isinstance(nest, dict):  # e.g. the BatchFeature of transformers
        nest = dict(nest)
    return mapped(lambda leaf: _moved(leaf, device), nest)


def _moved(leaf: Any, device: torch.device | None) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf.to(device) if hasattr(leaf, "to") else leaf  # e.g. a batch of graphs
    leaf = leaf if leaf.layout is torch.strided else leaf.to_dense()
    leaf = leaf.clone() if leaf.is_inference() else leaf  # one that was made in inference mode takes no gradient
    return leaf.to(device, torch.float32 if leaf.dtype in HALF else None, non_blocking=True)
