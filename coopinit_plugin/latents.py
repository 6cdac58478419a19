"""What a generator may take: latents, conditions and source images, the likeliest first."""

from __future__ import annotations

import inspect as signatures
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from coopinit_plugin.batch_parts import Part, batch_size, could_be_data, could_be_labels, describe, get, parts
from coopinit_plugin.errors import CoopInitError

SIZES = (
    *("z_dim", "nz", "latent_dim", "dim_z", "latent_size", "noise_dim", "z_size", "zdim", "nz_dim", "n_z", "n_latent"),
    *("latent_channels", "dim_latent", "code_dim", "style_dim", "z_channels", "input_dim", "in_dim", "noise_size"),
)
CLASS_COUNTS = (
    "c_dim",
    "num_classes",
    "n_classes",
    "n_class",
    "nclass",
    "nlabels",
    "label_dim",
    "num_labels",
    "classes",
)
CONDITIONS = (
    *(
        "c",
        "y",
        "label",
        "labels",
        "class_labels",
        "class_label",
        "cond",
        "condition",
        "conditions",
        "class_idx",
        "cls",
    ),
    *("target", "targets", "onehot", "one_hot", "class_id", "y_onehot", "c_org", "c_trg"),
)
LISTS = ("styles", "zs", "latents", "noises", "codes", "inputs")


@dataclass(frozen=True)
class Condition:
    """Labels from the batch in the form in which one network takes them.

    Attributes:
        take: ``(batch) -> c``.
        text: Where they come from and in which form.
    """

    take: Callable[[Any], Tensor]
    text: str


@dataclass(frozen=True)
class Guess:
    """One way in which G may be called.

    Attributes:
        latent: ``(n, device, batch) -> z``; a tuple is spread over G's arguments.
        how: What it rests on.
        source: Keys of the batch's tensor that G translates, ``None`` where it starts from noise.
    """

    latent: Callable[[int, torch.device, Any], Any]
    how: str
    source: tuple[Any, ...] | None = None


def arguments(module: nn.Module) -> tuple[list[str], list[str]]:
    """Names of forward's positional arguments: those it cannot do without, and the others."""
    found = [
        a
        for a in signatures.signature(module.forward).parameters.values()
        if a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)
    ]
    return [a.name for a in found if a.default is a.empty], [a.name for a in found if a.default is not a.empty]


def condition_of(module: nn.Module, letter: str, named: list[Part]) -> tuple[int, Condition] | None:
    """(Position among the arguments, condition) where the network takes labels, else ``None``.

    Args:
        module: G or D.
        letter: ``"G"`` or ``"D"``, for messages.
        named: The batch's tensors.

    Raises:
        CoopInitError: where labels are needed and it cannot be known which, or in which form.
    """
    required, optional = arguments(module)
    labels = [part for part in named if could_be_labels(part)]
    count = next((int(getattr(module, a)) for a in CLASS_COUNTS if isinstance(getattr(module, a, None), int)), None)
    embedding = next((m for m in module.modules() if isinstance(m, nn.Embedding)), None)
    position = next((i for i, name in enumerate(required) if name.lower() in CONDITIONS and len(required) > 1), None)
    if position is None:
        wanted = [i for i, name in enumerate(optional) if name.lower() in CONDITIONS]
        if not (len(required) == 1 and wanted == [0] and labels and (embedding is not None or count)):
            return None
        position = 1
    if count == 0:
        return position, Condition(
            lambda batch: torch.zeros(batch_size(batch) or 0, 0, device=next(parts(batch)).tensor.device),
            "none, as (N, 0)",
        )
    if not labels:
        raise CoopInitError(
            f"{letter}'s forward takes a condition ({required[position]!r}), but no labels were found in a batch. Let "
            f"the loader yield (x, label), or say what your loop passes: {_hook(letter)}"
        )
    if len(labels) > 1:
        names = ", ".join(f"{part.name} {describe(part.tensor)}" for part in labels)
        raise CoopInitError(f"Which of these are {letter}'s labels: {names}? Say it: {_hook(letter, labels[0].name)}")
    part = labels[0]
    keys, tensor = part.keys, part.tensor
    if tensor.is_floating_point() or (tensor.ndim == 2 and tensor.shape[1] > 1):
        if embedding is not None:
            return position, Condition(
                lambda batch: get(batch, keys).argmax(1), f"{part.name}, one-hot, as class numbers"
            )
        return position, Condition(lambda batch: get(batch, keys).float(), f"{part.name}, one-hot")
    if embedding is not None or count is None:
        if embedding is None:
            raise CoopInitError(
                f"{letter} takes a condition, and {part.name} holds whole numbers, but neither an nn.Embedding nor a "
                f"class count ({', '.join(CLASS_COUNTS[:4])}, ...) tells whether it wants class numbers or one-hot "
                f"rows. Say it: {_hook(letter, part.name)}"
            )
        return position, Condition(lambda batch: get(batch, keys).flatten().long(), f"{part.name}, class numbers")
    classes = count
    return position, Condition(
        lambda batch: one_hot(get(batch, keys).flatten().long(), classes).float(),
        f"{part.name}, as one-hot rows of {classes}",
    )


def guesses(G: nn.Module, named: list[Part], condition: tuple[int, Condition] | None) -> Iterator[Guess]:
    """Ways in which G may be called, the likeliest first; none where more than one argument is unknown."""
    required, _ = arguments(G)
    unknown = [name for i, name in enumerate(required) if condition is None or i != condition[0]]
    if len(unknown) > 1:
        return
    first = first_layer(G)
    data = [part for part in named if could_be_data(part) and not could_be_labels(part)]
    size = next(((a, getattr(G, a)) for a in SIZES if is_count(getattr(G, a, None))), None)
    if size is None and first is not None and takes_images(first, data):
        yield from _sources(first, data, condition)  # one tensor alone: an image or noise like it, who knows
        return
    tails: list[tuple[tuple[int, ...], str]] = []
    shapes = [part.tensor.shape[1:] for part in data]
    if size is not None:
        tails += [(tail, f"G.{size[0]} = {size[1]}") for tail in _tails(int(size[1]), first, shapes)]
    if first is not None:
        for width, why in _widths(G, first, condition):
            tails += [(tail, why) for tail in _tails(width, first, shapes) if tail not in [known for known, _ in tails]]
    listed = bool(unknown) and unknown[0] in LISTS
    for tail, how in tails:
        for as_list in (True, False) if listed else (False,):
            yield Guess(_noise(tail, as_list, condition), f"{how}; standard normal assumed")


def first_layer(module: nn.Module) -> tuple[nn.Module, int, str] | None:
    """The first registered layer that takes a width: (layer, width, its name)."""
    for name, child in module.named_modules():
        own = any(True for _ in child.parameters(recurse=False))
        parametrized = isinstance(getattr(child, "parametrizations", None), nn.ModuleDict)
        if isinstance(child, nn.Embedding) or not (own or parametrized):
            continue
        for attribute in ("in_features", "in_channels", "input_size", "in_dim", "in_channel"):
            if is_count(getattr(child, attribute, None)):
                return child, int(getattr(child, attribute)), f"{name} {type(child).__name__}"
        weight = getattr(child, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            return child, int(weight.shape[1]), f"{name} {type(child).__name__}"
        if isinstance(child, nn.TransformerEncoderLayer):
            return child, child.linear1.in_features, f"{name} {type(child).__name__}"
    return None


def is_count(value: Any) -> bool:
    """Whether an attribute is a size."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def takes_images(first: tuple[nn.Module, int, str], data: list[Part]) -> list[Part]:
    """The batch's tensors that a first convolution could take as they are."""
    layer, width, _ = first
    if not isinstance(layer, _ConvNd) or isinstance(layer, _ConvTransposeNd):
        return []
    rank = len(layer.kernel_size) + 2
    return [part for part in data if part.tensor.ndim == rank and part.tensor.shape[1] == width]


def _sources(
    first: tuple[nn.Module, int, str], data: list[Part], condition: tuple[int, Condition] | None
) -> Iterator[Guess]:
    """Image-to-image: G's first convolution has the width of one of the batch's several tensors."""
    fitting = takes_images(first, data)
    if len(data) < 2 or not fitting:
        return
    for part in fitting:
        keys = part.keys
        take = lambda n, device, batch, keys=keys: get(batch, keys)  # noqa: E731
        yield Guess(_with_condition(take, condition), f"{part.name}: G's first layer, {first[2]}, takes it", keys)


def _widths(
    G: nn.Module, first: tuple[nn.Module, int, str], condition: tuple[int, Condition] | None
) -> Iterator[tuple[int, str]]:
    """Sizes that the first layer's width leaves for the latent."""
    _, width, name = first
    if condition is not None:
        embedding = next((m for m in G.modules() if isinstance(m, nn.Embedding)), None)
        count = next((getattr(G, a) for a in CLASS_COUNTS if is_count(getattr(G, a, None))), None)
        beside = embedding.embedding_dim if embedding is not None else count
        if beside is not None and 0 < beside < width:
            yield width - beside, f"G's first layer, {name}, less {beside} for the labels"
    yield width, f"G's first layer, {name}"


def _tails(size: int, first: tuple[nn.Module, int, str] | None, data: list[torch.Size]) -> list[tuple[int, ...]]:
    """Shapes of one latent of that size, the likeliest for that first layer first."""
    layer, width = (first[0], first[1]) if first is not None else (None, None)
    lengths = list(dict.fromkeys(shape[0] for shape in data if len(shape) == 2))
    if isinstance(layer, _ConvNd) and width == size:
        spatial = len(layer.kernel_size)
        maps = [tuple(shape[1:]) for shape in data if len(shape) == spatial + 1]
        small: tuple[int, ...] = (size, *[1] * spatial)
        wide: list[tuple[int, ...]] = [(size, *shape) for shape in dict.fromkeys(maps)]
        return [small, (size,)] if isinstance(layer, _ConvTransposeNd) else [*wide, small]
    if isinstance(layer, (nn.RNNBase, nn.TransformerEncoderLayer)) and width == size:
        return [(length, size) for length in lengths] + [(size,)]
    return [(size,), *((length, size) for length in lengths)]


def _noise(tail: tuple[int, ...], as_list: bool, condition: tuple[int, Condition] | None) -> Callable[..., Any]:
    def latent(n: int, device: torch.device, batch: Any) -> Any:
        z = torch.randn(n, *tail, device=device)
        return [z] if as_list else z

    return _with_condition(latent, condition)


def _with_condition(latent: Callable[..., Any], condition: tuple[int, Condition] | None) -> Callable[..., Any]:
    if condition is None:
        return latent
    position, labels = condition

    def both(n: int, device: torch.device, batch: Any) -> Any:
        z, c = latent(n, device, batch), labels.take(batch)
        return (z, c) if position == 1 else (c, z)

    return both


def _hook(letter: str, name: str = "batch[1]") -> str:
    if letter == "G":
        return (
            "adapter=coopinit_plugin.Adapter(latent=lambda n, device, batch: (torch.randn(n, 100, device=device), "
            f"{name}), generate=lambda G, z: G(*z))"
        )
    return f"adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: D(x, {name}))"
