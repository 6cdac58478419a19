"""What the layers of a network tell of what it takes: widths, before a pass and where one failed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd

from coopinit_plugin.method.recorder import Record
from coopinit_plugin.nests import Part

NOISE_SIZES = (  # attributes that hold the size of a latent
    "z_dim", "nz", "latent_dim", "dim_z", "latent_size", "noise_dim", "z_size", "zdim", "nz_dim", "n_z", "code_dim",
    "latent_channels", "dim_latent", "style_dim", "z_channels", "noise_size", "dim_noise", "embedding_dim",
)  # fmt: skip
WIDTHS = ("in_features", "in_channels", "input_size", "in_dim", "in_channel")  # attributes of a layer


class First(NamedTuple):
    """The first layer of a network that takes a width (features or channels), and its name; of width 0 if none does."""

    layer: nn.Module | None = None
    width: int = 0
    name: str = ""

    @property
    def takes_images(self) -> bool:
        """Whether it is a convolution; a transposed one starts from noise."""
        return isinstance(self.layer, _ConvNd) and not isinstance(self.layer, _ConvTransposeNd)

    def images(self, data: list[Part]) -> list[Part]:
        """The tensors that it could take as they are, if it is a convolution."""
        rank = len(self.layer.kernel_size) + 2 if self.takes_images else None  # type: ignore[union-attr,arg-type]
        return [part for part in data if part.tensor.ndim == rank and part.tensor.shape[1] == self.width]


class Misfit(NamedTuple):
    """The layer in which a pass failed, if one that takes a width did; what it was given."""

    asked: int = 0  # the width that it takes
    given: int = 0  # of what it was given; 0 if that has not the dimensions that the layer takes
    whole: bool = False  # whether that was whole numbers


def first_layer(children: Iterable[tuple[str, nn.Module]]) -> First:
    """The first of the modules that takes a width."""
    for name, child in children:
        label = f"{name} {type(child).__name__}".strip()
        if isinstance(child, nn.TransformerEncoderLayer):
            return First(child, child.linear1.in_features, label)
        parametrized = isinstance(getattr(child, "parametrizations", None), nn.ModuleDict)
        if isinstance(child, nn.Embedding) or not (parametrized or [*child.parameters(recurse=False)]):
            continue
        weight = getattr(child, "weight", None)
        matrix = [int(weight.shape[1])] if isinstance(weight, Tensor) and weight.ndim == 2 else []
        if widths := [size for _, size in sizes(child, WIDTHS)] or matrix:
            return First(child, widths[0], label)
    return First()


def first_run(record: Record) -> First:
    """The first layer that ran and takes a width; if the pass failed before any, that of the last module begun."""
    order = [(call.name, call.module) for call in record.begun]
    ran = first_layer(order[1:])
    return ran if ran.width or not order else first_layer(order[-1][1].named_modules())


def misfit(record: Record) -> Misfit:
    """Where the pass failed."""
    done = {id(call) for call in record.ended}
    call = next((call for call in reversed(record.begun) if id(call) not in done), None)
    first = first_layer([(call.name, call.module)]) if call is not None else First()
    if call is None or first.layer is None or call.shape is None or call.dtype is None:
        return Misfit()
    convolves = isinstance(first.layer, _ConvNd)
    fits = not convolves or len(call.shape) == first.layer.weight.ndim
    width = call.shape[1 if convolves else -1] if fits and call.shape else 0
    return Misfit(first.width, width, not (call.dtype.is_floating_point or call.dtype.is_complex))


def sizes(module: nn.Module, names: Iterable[str]) -> list[tuple[str, int]]:
    """The attributes of those names that hold a size, each with it."""
    values = ((name, getattr(module, name, None)) for name in names)
    return [(name, value) for name, value in values if type(value) is int and value > 0]


def noise_line(*shape: int) -> str:
    """Noise of a shape, as a user writes it; 100 wide if no width was found."""
    return f"torch.randn(n, {', '.join(str(size or 100) for size in shape)}, device=device)"


def one_hot_line(name: str, classes: int) -> str:
    """Class numbers as one-hot rows, as a user writes it."""
    return f"torch.nn.functional.one_hot({name}, {classes}).float()"


def rows_line(labels: Part | None, classes: int) -> str:
    """Labels of a batch as one-hot rows, as a user writes it."""
    if labels is None:
        return one_hot_line("batch[1]", classes)
    if labels.has_rows and labels.tensor.shape[1] == classes:
        return f"{labels.name}.float()"
    whole = ".flatten()" * (labels.tensor.ndim > 1) + ".long()" * (labels.tensor.dtype != torch.int64)
    return one_hot_line(labels.name + whole, classes)


def joined_line(to: str, labels: Part | None, classes: int) -> str:
    """Something with labels beside it, as a user writes it."""
    return f"torch.cat([{to}, {rows_line(labels, classes)}], 1)"
