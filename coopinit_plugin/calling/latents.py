"""What a generator may take: latents, conditions beside them, and source images, the likeliest first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.conditions import CONDITIONS, Condition, arguments
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.nests import Part, could_be_data, describe, get, parts

NOISE_SIZES = (
    *("z_dim", "nz", "latent_dim", "dim_z", "latent_size", "noise_dim", "z_size", "zdim", "nz_dim", "n_z"),
    *(
        "latent_channels",
        "dim_latent",
        "code_dim",
        "style_dim",
        "z_channels",
        "noise_size",
        "dim_noise",
        "embedding_dim",
    ),
)
SIZES = (*NOISE_SIZES, "input_dim", "in_dim")  # the last two also name the channels of a source image
LISTS = ("styles", "zs", "latents", "noises", "codes", "inputs")


@dataclass(frozen=True)
class Guess:
    """One way in which G may be called.

    Attributes:
        latent: ``(n, device, batch) -> z``; with a condition (z, c).
        how: What it rests on.
        condition: What stands beside the latent.
        source: Keys of the batch's tensor that G translates or takes as it is, ``None`` where there is none.
        named_noise: Whether an attribute of G names the latent's size.
    """

    latent: Callable[[int, torch.device, Any], Any]
    how: str
    condition: Condition | None = None
    source: tuple[Any, ...] | None = None
    named_noise: bool = False

    def generate(self, G: nn.Module, z: Any) -> Any:
        """G on the latent, the condition where it belongs; ``G(*z)`` for any other tuple."""
        if self.condition is not None:
            return self.condition.call(G, *z)
        return G(*z) if isinstance(z, tuple) else G(z)


def guesses(
    G: nn.Module,
    first: tuple[nn.Module, int, str] | None,
    named: list[Part],
    conditions: list[Condition],
    data: list[Part],
    target_known: bool,
) -> Iterator[Guess]:
    """Ways in which G may be called, the likeliest first; none where more than one argument is unknown.

    Args:
        G: The generator.
        first: Its first layer.
        named: The batch's tensors that G may translate.
        conditions: What may stand beside the latent; empty where G takes no condition.
        data: The tensors of which one is the data.
        target_known: Whether the user said which, and it is as it stands in the batch.
    """
    taken = {condition.name for condition in conditions}
    unknown = [name for name in arguments(G)[0] if name not in taken]
    if len(unknown) > 1:
        return
    beside: list[Condition | None] = [*conditions] or [None]
    size = size_of(G, first, data)
    images = first is not None and bool(takes_images(first, data))
    layer = first[0] if first is not None else None
    maps = sum(part.tensor.ndim >= 4 for part in named) + target_known
    if isinstance(layer, _ConvNd) and not isinstance(layer, _ConvTransposeNd) and maps > 1 and size is None:
        images = True  # the other map, such as a segmentation, may be what G takes once the loop has prepared it
    shapes = [part.tensor.shape[1:] for part in data]
    known: list[tuple[int, ...]] = []
    for width, why, attribute in _widths(first, size, images, conditions):
        for tail in _tails(width, first, shapes):
            if tail in known:
                continue
            known.append(tail)
            for as_list in (True, False) if unknown and unknown[0] in LISTS else (False,):
                for condition in beside:
                    latent = _with_condition(_noise(tail, as_list), condition)
                    source = condition.keys if condition is not None else None
                    yield Guess(latent, f"{why}; standard normal assumed", condition, source, attribute)
    if images and first is not None and (target_known or len(data) > 1):  # one alone: an image, or noise like it?
        for part in takes_images(first, [part for part in named if could_be_data(part)]):
            take = lambda n, device, batch, keys=part.keys: get(batch, keys)  # noqa: E731
            how = f"{part.name}: G's first layer, {first[2]}, takes it"
            for condition in beside:
                yield Guess(_with_condition(take, condition), how, condition, part.keys)


def size_of(G: nn.Module, first: tuple[nn.Module, int, str] | None, data: list[Part]) -> tuple[str, int] | None:
    """(Attribute, size) of the latent that G names, unless it may be the channels of an image."""
    images = first is not None and bool(takes_images(first, data))
    found = [
        (name, int(getattr(G, name))) for name in (NOISE_SIZES if images else SIZES) if is_count(getattr(G, name, None))
    ]
    return next((pair for pair in found if first is not None and pair[1] == first[1]), found[0] if found else None)


def first_layer(children: Iterable[tuple[str, nn.Module]]) -> tuple[nn.Module, int, str] | None:
    """The first of the modules that takes a width: (layer, width, its name)."""
    for name, child in children:
        label = f"{name} {type(child).__name__}".strip()
        if isinstance(child, nn.TransformerEncoderLayer):
            return child, child.linear1.in_features, label
        own = any(True for _ in child.parameters(recurse=False))
        parametrized = isinstance(getattr(child, "parametrizations", None), nn.ModuleDict)
        if isinstance(child, nn.Embedding) or not (own or parametrized):
            continue
        for attribute in ("in_features", "in_channels", "input_size", "in_dim", "in_channel"):
            if is_count(getattr(child, attribute, None)):
                return child, int(getattr(child, attribute)), label
        weight = getattr(child, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2:
            return child, int(weight.shape[1]), label
    return None


def is_count(value: Any) -> bool:
    """Whether an attribute is a size."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def takes_images(first: tuple[nn.Module, int, str], data: list[Part]) -> list[Part]:
    """The tensors that a first convolution could take as they are."""
    layer, width, _ = first
    if not isinstance(layer, _ConvNd) or isinstance(layer, _ConvTransposeNd):
        return []
    rank = len(layer.kernel_size) + 2
    return [part for part in data if part.tensor.ndim == rank and part.tensor.shape[1] == width]


def refuse_translation(named: list[Part], data: list[Part], given: bool, z: Any, out: Any) -> None:
    """Refuse noise of the shape of one tensor in the batch for a G that gives the shape of another.

    Args:
        named: The batch's tensors that G may translate.
        data: The tensors of which one is the data; what the user's `real` gave, where `given`.
        given: Whether the user said which.
        z: The noise that G took.
        out: What G made of it.

    Raises:
        CoopInitError: where both readings are possible.
    """
    shapes = {leaf.shape for leaf in tree_leaves(z)}
    made = {part.tensor.shape for part in parts(out)}
    for part in named:
        others = [other for other in data if given or other.keys != part.keys]
        if could_be_data(part) and part.tensor.shape in shapes and any(o.tensor.shape in made for o in others):
            tail = ", ".join(map(str, part.tensor.shape[1:]))
            raise CoopInitError(
                f"Does G translate {part.name}, or does it start from noise? It takes both, {describe(z)}. Say it: "
                f"adapter=coopinit_plugin.Adapter(latent=lambda n, device, batch: {part.name}) or "
                f"Adapter(latent=lambda n, device, batch: torch.randn(n, {tail}, device=device))"
            )


def unknown_latent(
    G: nn.Module,
    first: tuple[nn.Module, int, str] | None,
    conditions: list[Condition],
    data: list[Part],
    named: list[Part],
    tried: list[str],
) -> str:
    """What is known of a G that took none of the guesses, and the line to write."""
    size, required = size_of(G, first, data), arguments(G)[0]
    noise = f"torch.randn(n, {size[1] if size else 100}, device=device)"
    why, line = "" if tried else " No size was found in its attributes or first layer.", noise
    maps = [part for part in named if part.tensor.ndim >= 3 and part not in data]
    if maps and first is not None and isinstance(first[0], _ConvNd) and not isinstance(first[0], _ConvTransposeNd):
        why = f" Its first layer, {first[2]}, takes {first[1]} channels: does your loop make them of {maps[0].name}?"
        line = f"{maps[0].name}.float()"
    elif first is not None and takes_images(first, data):
        why = f" Its first layer, {first[2]}, takes images like the data: which, or noise of that shape?"
    elif first is not None and size is not None and first[1] > size[1] and len(required) == 1:
        more = first[1] - size[1]
        why = (
            f" Its {size[0]} is {size[1]}, but its first layer, {first[2]}, takes {first[1]}: are {more} numbers, such "
        )
        why += "as labels, joined to the noise?"
        line = f"torch.cat([{noise}, torch.nn.functional.one_hot(batch[1], {more}).float()], 1)"
    elif len(required) > 1 and not tried:
        rest = "".join(", batch[1]" if name.lower() in CONDITIONS else f", {name}=..." for name in required[1:])
        why = f" Its forward needs {', '.join(required)}."
        line = f"({noise}{rest})".replace("=...", "")
    elif conditions:
        why = f" Its {conditions[0].place} was given {conditions[0].text}; does your loop embed it first?"
        embedding = next((name for name, child in G.named_children() if isinstance(child, nn.Embedding)), None)
        line = f"({noise}, batch[1])"
        if embedding is not None:
            line += f", generate=lambda G, z: G(z[0], G.{embedding}(z[1]))"
        elif first is not None and isinstance(first[0], _ConvNd) and not isinstance(first[0], _ConvTransposeNd):
            line = "(batch[0], batch[1])"
    lines = "\nTried:\n" + "\n".join(tried) if tried else ""
    return (
        f"What does G ({type(G).__name__}) take?{why}{lines}\nSay what your loop passes to it, e.g. "
        f"adapter=coopinit_plugin.Adapter(latent=lambda n, device, batch: {line})"
    )


def _widths(
    first: tuple[nn.Module, int, str] | None, size: tuple[str, int] | None, images: bool, conditions: list[Condition]
) -> Iterator[tuple[int, str, bool]]:
    """(Size of the latent, why, whether an attribute names it).

    A first layer wider than the size that G names takes something beside the noise: no guess is made from it.
    """
    if size is not None:
        yield size[1], f"G.{size[0]} = {size[1]}", True
    if first is None or images or (size is not None and first[1] > size[1]):
        return
    _, width, name = first
    for beside in dict.fromkeys(condition.width for condition in conditions):
        if beside is not None and 0 < beside < width and size is None:
            yield width - beside, f"G's first layer, {name}, less {beside} for the condition", False
    yield width, f"G's first layer, {name}", False


def _tails(size: int, first: tuple[nn.Module, int, str] | None, data: list[torch.Size]) -> list[tuple[int, ...]]:
    """Shapes of one latent of that size, the likeliest for that first layer first."""
    layer, width = (first[0], first[1]) if first is not None else (None, None)
    lengths = list(dict.fromkeys(shape[0] for shape in data if len(shape) == 2))
    if isinstance(layer, _ConvNd) and width == size:
        small: tuple[int, ...] = (size, *[1] * len(layer.kernel_size))
        if isinstance(layer, _ConvTransposeNd):
            return [small, (size,)]
        signals = [shape for shape in data if len(shape) == 2 and len(layer.kernel_size) == 1]
        wide = [tail for shape in signals for tail in ((size, shape[1]), (shape[0], size))]  # noise as long as a signal
        return [*dict.fromkeys(wide), small]  # maps as large as an image are no noise: segmentations, sketches
    if isinstance(layer, (nn.RNNBase, nn.TransformerEncoderLayer)) and width == size:
        return [(length, size) for length in lengths] + [(size,)]
    return [(size,), *((length, size) for length in lengths)]


def _noise(tail: tuple[int, ...], as_list: bool) -> Callable[..., Any]:
    def latent(n: int, device: torch.device, batch: Any) -> Any:
        z = torch.randn(n, *tail, device=device)
        return [z] if as_list else z

    return latent


def _with_condition(latent: Callable[..., Any], condition: Condition | None) -> Callable[..., Any]:
    if condition is None:
        return latent
    return lambda n, device, batch: (latent(n, device, batch), condition.take(batch))
