"""What is said of a batch that holds no data, or data that G's output does not match, with the line that mends it."""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Any

import torch
from torch.utils._pytree import keystr, tree_flatten_with_path

from coopinit_plugin.calling.adapter import line, unclear
from coopinit_plugin.calling.layers import one_hot_line
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.nests import Part, describe

ONE_SAMPLE = "more than 1 value per channel"  # BatchNorm's words
LARGER_BATCH = "BatchNorm needs more than one sample: give a loader with a larger batch_size, and drop_last=True."
SINGLE = " Single samples? Make batches of them, e.g. by DataLoader(dataset, batch_size=64)."
TOPS = (1, *(2**bits - 1 for bits in (8, 10, 12, 14, 16)))  # ends of the types in which images come
FILLED = 0.4  # the share of such a range that data of this type fill
MANY = 64  # tensors in a batch, without any data among them: nested lists that were collated number by number


def no_data(batch: Any, named: list[Part]) -> CoopInitError:
    """What is in a batch that holds nothing like data, and the line that makes data of it."""
    if not named:
        return _no_tensor(batch)
    shown = "; ".join(f"{part.name} is {describe(part.tensor)}" for part in named[:4])
    shown += f"; ... ({len(named)} tensors in all)" * (len(named) > 4)
    part = max(named, key=lambda part: (not part.is_labels, part.tensor.ndim))
    name, x, bodies = part.name, part.tensor, ["..."]
    seen = f"No data found in a batch: {shown}. Expected floating-point numbers (N, ...), such as images (N, C, H, W)"
    if len(named) > MANY:
        how = 'dataset.with_format("torch"), or torch.tensor(...) in its __getitem__.'
        seen += f". Nested Python lists, of which each number became a tensor? Let the dataset give tensors: {how}"
    elif x.is_complex():
        seen += "; these are complex. As two channels:"
        bodies = [f"torch.view_as_real({name}).movedim(-1, 1).flatten(1, 2)"]
    elif x.is_floating_point():
        alike = [its for its in named if (its.tensor.shape, its.tensor.dtype) == (x.shape, x.dtype)]
        seen += "." + SINGLE * (len(alike) < 2)
        bodies = [f"torch.stack({_each(alike)})" if len(alike) > 1 else f"{name}.unsqueeze(1)"]
    elif part.is_labels or not x.numel():
        seen += "; these look like labels. Let the loader yield the data, too."
    else:
        low, high = (float(end) for end in torch.aminmax(x.double()))
        seen += f", in the range that G produces; these are whole numbers in the range [{low:g}, {high:g}]."
        if x.ndim > 2 or x.dtype == torch.bool:
            seen += " How does your loop scale them?"
            bodies = [rescaled(f"{name}.float()", low, 255 if x.dtype == torch.uint8 else high, -1)]
        else:
            seen += " Are they ids (tokens, classes) of which G gives one-hot rows, or plain numbers?"
            bodies = [one_hot_line(f"{name}.long()", int(high) + 1), f"{name}.float()"]
    return unclear(seen, *(line(real=body) for body in bodies))


def _no_tensor(batch: Any) -> CoopInitError:
    """What is in a batch without any tensor, and the line that makes one of it."""
    held = tree_flatten_with_path(batch)[0]
    made = [f"torch.as_tensor(batch{keystr(path)})" for path, leaf in held if hasattr(leaf, "__array__")]
    seen = f"A batch of your loader is a {type(batch).__name__} in which no tensor was found. Where are the data?"
    seen += " The DataLoader's default collate_fn makes tensors of arrays." * bool(made)
    if isinstance(batch, list) and len(batch) > 2:
        sample = "torch.as_tensor(sample)" if made else "torchvision.transforms.functional.to_tensor(sample)"
        made = [f"torch.stack([{sample} for sample in batch])"]
        with suppress(Exception):
            torch.tensor(batch)
            made = ["torch.tensor(batch)"]
    attributes = [f"batch.{name}" for name in getattr(batch, "__dict__", {})]
    return unclear(seen, line(real=[*made, *attributes, 'batch["image"]'][0]))


def mismatch(data: list[Part], made: list[Part], single: bool, tried: str = "") -> CoopInitError:
    """Why G's output cannot be compared with the data, and the line that mends it.

    `single`: whether the data, tensors of the batch as it is, may be single samples.
    """
    gave = ", ".join(str(tuple(part.tensor.shape)) for part in made[:4]) or "no tensor"
    have = ", ".join([f"{part.name} {tuple(part.tensor.shape)}" for part in data[:4]] + ["..."] * (len(data) > 4))
    seen = f"G's output does not match the data: G gave {gave}, the loader gives {have}. D compares the two, so their "
    seen += "shapes must be the same. Resize or reorder the data, in the dataset, a collate_fn or here, or change G."
    shape = made[0].tensor.shape[1:] if made else ()
    samples = [part for part in data if single and part.tensor.ndim == len(shape)]
    layouts = [body for ours in data for theirs in made if (body := _layout(ours, theirs))]
    hooks = {"real": layouts[0]} if layouts else {"real": "...", "generate": "..."}
    if len({part.tensor.shape for part in samples}) > 1:  # a list of samples of several sizes
        sized = f"torch.nn.functional.interpolate(x[None], size={tuple(shape[1:])})[0] for x in {_each(samples)}"
        hooks = {"real": f"torch.stack([{sized}])"}
    elif len(samples) > 1:
        hooks = {"real": f"torch.stack({_each(samples)})"}
    elif samples and samples[0].tensor.shape == shape:
        seen, hooks = seen + SINGLE, {"real": f"{samples[0].name}.unsqueeze(0)"}
    elif made and any(part.tensor.shape[1:] == shape for part in data):  # but not as many
        hooks = {"latent": "torch.randn(n, ..., device=device)"}
    return unclear(seen + tried, line(**hooks))


def _each(samples: list[Part]) -> str:
    """A list of the single samples in a batch, as a user writes it: they, or what holds each, stand in a list."""
    first = samples[0]
    if all(part.keys[:-1] == first.keys[:-1] for part in samples):
        return first.name[: first.name.rindex("[")]
    return f"[sample{''.join(f'[{key!r}]' for key in first.keys[1:])} for sample in batch]"


def _layout(ours: Part, theirs: Part) -> str | None:
    """The data in the shape of G's output, as a user writes it, if they have as many numbers."""
    have, want = tuple(ours.tensor.shape[1:]), tuple(theirs.tensor.shape[1:])
    if have == want or math.prod(have) != math.prod(want):
        return None
    if len(have) == 2 and want == have[::-1]:
        return f"{ours.name}.transpose(1, 2)"
    if len(have) == 3 and want == (have[-1], *have[:-1]):
        return f"{ours.name}.permute(0, 3, 1, 2)"
    return f"{ours.name}.reshape(-1, {', '.join(map(str, want))})"


def rescaled(name: str, low: float, high: float, bottom: int) -> str:
    """The data in [bottom, 1], as a user writes it: by the range of their type, or else by the range seen."""
    top = next((top for top in TOPS if low >= 0 and high <= top and (top == 1 or high > FILLED * top)), None)
    if low >= -1 and high <= 1 and bottom == 0:
        return f"({name} + 1) / 2"
    if top is None:
        return f"({name} - ({low:g})) / {high - low:g}" + " * 2 - 1" * (bottom < 0)
    if bottom == 0:
        return f"{name} / {top}"
    return f"{name} * 2 - 1" if top == 1 else f"{name} / {top / 2:g} - 1"
