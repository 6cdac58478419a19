"""Lines as a user writes them, and what is said of a batch without data or of data that G's output does not match."""

from typing import Any

import torch
from torch.utils._pytree import keystr, tree_flatten_with_path

from coopinit_plugin.calling.adapter import line, unclear
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.nests import Part, describe

SINGLE = "Single samples? Make batches of them, e.g. by DataLoader(dataset, batch_size=64)."
TOPS = (1, *(2**bits - 1 for bits in (8, 10, 12, 14, 16)))  # ends of the types in which images come
FILLED = 0.4  # the share of such a range that data of this type fill
MANY = 64  # tensors in a batch, without any data among them: nested lists that were collated number by number


def noise_line(*shape: int) -> str:
    """Noise of a shape; 100 wide if no width was found."""
    return f"torch.randn(n, {', '.join(str(size or 100) for size in shape)}, device=device)"


def one_hot_line(name: str, classes: int) -> str:
    """Class numbers as one-hot rows."""
    return f"torch.nn.functional.one_hot({name}, {classes}).float()"


def joined_line(to: str, labels: Part, classes: int) -> str:
    """Something with labels of the batch beside it, as one-hot rows."""
    whole = ".flatten()" * (labels.tensor.ndim > 1) + ".long()" * (labels.tensor.dtype != torch.int64)
    rows = f"{labels.name}.float()" if labels.has_rows else one_hot_line(labels.name + whole, classes)
    return f"torch.cat([{to}, {rows}], 1)"


def rescaled(name: str, low: float, high: float, bottom: int) -> str:
    """The data in [bottom, 1]: by the range of their type, or else by the range seen."""
    top = next((top for top in TOPS if low >= 0 and high <= top and (top == 1 or high > FILLED * top)), None)
    if low >= -1 and high <= 1 and bottom == 0:
        return f"({name} + 1) / 2"
    if top is None:
        return f"({name} - ({low:g})) / {high - low:g}" + " * 2 - 1" * (bottom < 0)
    if bottom == 0:
        return f"{name} / {top}"
    return f"{name} * 2 - 1" if top == 1 else f"{name} / {top / 2:g} - 1"


def no_data(batch: Any, named: list[Part]) -> CoopInitError:
    """What is in a batch that holds nothing like data, and the line that makes data of it."""
    if not named:
        return _no_tensor(batch)
    shown = "; ".join(f"{part.name} is {describe(part.tensor)}" for part in named[:4])
    shown += f"; ... ({len(named)} tensors in all)" * (len(named) > 4)
    why, *bodies = _made_data(named)
    expected = "Expected floating-point numbers (N, ...), such as images (N, C, H, W), in the range that G produces"
    return unclear(f"No data found in a batch: {shown}. {expected}; {why}", *(line(real=body) for body in bodies))


def _made_data(named: list[Part]) -> tuple[str, ...]:
    """(Why the likeliest of the tensors is no data, what makes data of it)."""
    part = max(named, key=lambda part: (not part.is_labels, part.tensor.ndim))
    name, x = part.name, part.tensor
    if len(named) > MANY:
        how = 'dataset.with_format("torch"), or torch.tensor(...) in its __getitem__.'
        return f"are these nested Python lists, number by number? Let the dataset give tensors: {how}", "..."
    if x.is_complex():
        return "these are complex. As two channels:", f"torch.view_as_real({name}).movedim(-1, 1).flatten(1, 2)"
    if x.is_floating_point():
        alike = [its for its in named if (its.tensor.shape, its.tensor.dtype) == (x.shape, x.dtype)]
        body = f"torch.stack({_each(alike)})" if len(alike) > 1 else f"{name}.unsqueeze(1)"
        return f"is that one number a sample? {SINGLE}", body
    if part.is_labels or not x.numel():
        return "these look like labels. Let the loader yield the data, too.", "..."
    low, high = (float(end) for end in torch.aminmax(x.double()))
    seen = f"these are whole numbers in the range [{low:g}, {high:g}]."
    if x.ndim > 2 or x.dtype == torch.bool:
        top = 255 if x.dtype == torch.uint8 else high
        return f"{seen} How does your loop scale them?", rescaled(f"{name}.float()", low, top, -1)
    ask = "Are they ids (tokens, classes) of which G gives one-hot rows, or plain numbers?"
    return f"{seen} {ask}", one_hot_line(f"{name}.long()", int(high) + 1), f"{name}.float()"


def _no_tensor(batch: Any) -> CoopInitError:
    """What is in a batch without any tensor, and the line that makes one of it."""
    held = tree_flatten_with_path(batch)[0]
    made = [f"torch.as_tensor(batch{keystr(path)})" for path, leaf in held if hasattr(leaf, "__array__")]
    if isinstance(batch, list) and len(batch) > 2:
        made = ["torch.stack([torch.as_tensor(sample) for sample in batch])"]
    attributes = [f"batch.{name}" for name in getattr(batch, "__dict__", {})]
    seen = f"A batch of your loader is a {type(batch).__name__} in which no tensor was found. Where are the data?"
    return unclear(seen, line(real=[*made, *attributes, 'batch["image"]'][0]))


def mismatch(data: list[Part], made: list[Part], single: bool, tried: str = "") -> CoopInitError:
    """Why G's output cannot be compared with the data, and the line that mends it.

    `single`: whether the data, tensors of the batch as it is, may be single samples.
    """
    gave = ", ".join(str(tuple(part.tensor.shape)) for part in made[:4]) or "no tensor"
    shapes = [f"{part.name} {tuple(part.tensor.shape)}" for part in data]
    have = ", ".join(shapes[:4] + ["..."] * (len(shapes) > 4)) or "no other"
    seen = f"G's output does not match the data: G gave {gave}, the loader gives {have}. D compares the two, so their "
    seen += "shapes must be the same. Resize or reorder the data, in the dataset, a collate_fn or here, or change G."
    shape = made[0].tensor.shape[1:] if made else ()
    samples = [part for part in data if single and part.tensor.shape == shape]
    hooks = {"real": "...", "generate": "..."}
    if samples and len(samples) == len(data) > 1:
        hooks = {"real": f"torch.stack({_each(samples)})"}
    elif samples and len(data) == 1:
        seen, hooks = f"{seen} {SINGLE}", {"real": f"{samples[0].name}.unsqueeze(0)"}
    elif any(part.tensor.shape[1:] == shape for part in data):  # but not as many
        hooks = {"latent": "torch.randn(n, ..., device=device)"}
    return unclear(seen + tried, line(**hooks))


def _each(samples: list[Part]) -> str:
    """A list of the single samples in a batch: they, or what holds each, stand in a list."""
    first = samples[0]
    if all(part.keys[:-1] == first.keys[:-1] for part in samples):
        return first.name[: first.name.rindex("[")]
    return f"[sample{''.join(f'[{key!r}]' for key in first.keys[1:])} for sample in batch]"
