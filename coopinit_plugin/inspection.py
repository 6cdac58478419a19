"""Find out how a pair of networks is called, prove it by forward passes, and say what was found.

Where two readings are possible nothing is guessed: the error names the hook to give and shows the line to write.
"""

from __future__ import annotations

import dataclasses
import inspect as signatures
from collections.abc import Callable, Iterator, Mapping
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from coopinit_plugin.adapter import Adapter, executed, fresh, infer_sign
from coopinit_plugin.batches import Batches, batch_size
from coopinit_plugin.borrowed import borrowed_randomness, copies, device_of, unwrap
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.modes import kept_buffers, kept_modes, likelihood_mode

ATTEMPTS = 3  # forward passes of G that the search for its latent may take
LATENT_SIZES = (
    *("z_dim", "nz", "latent_dim", "dim_z", "latent_size", "noise_dim", "z_size", "zdim", "nz_dim", "n_z", "n_latent"),
    *("latent_channels", "dim_latent", "code_dim", "style_dim", "z_channels"),
)
CLASS_COUNTS = ("c_dim", "num_classes", "n_classes", "n_class", "classes", "label_dim", "num_labels")
CONDITIONS = (
    *("c", "y", "label", "labels", "class_labels", "cond", "condition", "conditions", "class_idx", "cls"),
    *("target", "targets"),
)
LISTS = ("styles", "zs", "latents", "noises", "codes")
RESHAPES = ("View", "Reshape", "Squeeze", "Unsqueeze", "Mean", "Transpose", "Permute", "Select", "Alias", "Clone")


def inspect(generator: nn.Module, discriminator: nn.Module, loader: Any, *, adapter: Adapter | None = None) -> Adapter:
    """Run one small batch through both networks and report how they are called. Nothing is changed.

    Args:
        generator: G.
        discriminator: D.
        loader: Any iterable of batches; one batch is taken.
        adapter: Hooks already known; the others are inferred.

    Returns:
        A complete adapter; ``print`` it for the table of what was found, how, and the warnings.

    Raises:
        CoopInitError: where something cannot be known; the message shows the line to write.
    """
    with torch.inference_mode(False), torch.enable_grad(), borrowed_randomness(seed=0):
        G, D = copies(generator, discriminator)
        device = device_of(D) or torch.device("cpu")
        stream = Batches(loader, device)
        return look(G.to(device), D, stream.peek(), device, adapter or Adapter())


def look(G: nn.Module, D: nn.Module, batch: Any, device: torch.device, given: Adapter) -> Adapter:
    """Complete `given` for networks that are copies; their buffers and modes are put back."""
    with kept_buffers(G, D), kept_modes(G, D):
        G.train()
        likelihood_mode(D)
        with torch.random.fork_rng(devices=[]):
            return _Search(G, D, batch, device, given).run()


class _Search:
    """What is known so far about one pair and one batch."""

    def __init__(self, G: nn.Module, D: nn.Module, batch: Any, device: torch.device, given: Adapter) -> None:
        self.G, self.D, self.batch, self.device, self.given = G, D, batch, device, given
        self.findings: list[tuple[str, str, str]] = []
        self.warnings: list[str] = []
        self.named = list(named_tensors(batch))
        self.n = batch_size(batch) or 0
        self.condition: Callable[[Any], Tensor] | None = None
        self.source: tuple[Any, ...] | None = None  # where in the batch the input of an image-to-image G is

    def run(self) -> Adapter:
        """The complete adapter."""
        if not self.named and self.given.real is None:
            raise CoopInitError(
                f"A batch of your loader is a {type(self.batch).__name__} in which no tensor was found. Say where the "
                'data are: adapter=coopinit_plugin.Adapter(real=lambda batch: batch["image"])'
            )
        self._refuse_what_is_no_data()
        latent, generate, out = self._generator()
        real, pick = self._data(out)
        x, fake = real(self.batch), pick(out)
        self.n = tree_leaves(x)[0].shape[0]
        self._check_data(x)
        self._ranges(x, fake)
        inferred_generate = generate if self.given.generate else lambda G, z: pick(generate(G, z))
        z = latent(self.n, self.device, self.batch)
        score, sigmoid = self._discriminator(x, z)
        self._layers()
        if self.given.d_loss is not None:
            high = self._sign()
        else:
            high = self.given.real_is_high
            if sigmoid:
                self._found("sign", "real is high" if high else "real is low", "assumed, as after a sigmoid")
            else:
                self._found("sign", "real is high" if high else "real is low", "assumed" if high else "given")
            if high and not sigmoid:
                self.warnings.append(
                    "No look at D tells whether it is high on real: assumed yes. Check with "
                    "coopinit_plugin.infer_sign(your_d_loss), or give Adapter(d_loss=your_d_loss)."
                )
        return dataclasses.replace(
            self.given,
            real=real,
            latent=latent,
            generate=inferred_generate,
            score=score,
            real_is_high=high,
            ends_in_sigmoid=sigmoid,
            findings=tuple(self.findings),
            warnings=tuple(self.warnings),
        )

    def _found(self, what: str, value: str, how: str) -> None:
        self.findings.append((what, value, how))

    # --- data

    def _refuse_what_is_no_data(self) -> None:
        if self.given.real is not None:
            return
        floating = [name for name, _, tensor in self.named if tensor.is_floating_point() and tensor.ndim >= 2]
        if floating:
            return
        shown = "; ".join(f"{name} is {describe(tensor)}" for name, _, tensor in self.named)
        pictures = [(name, tensor) for name, _, tensor in self.named if tensor.ndim >= 3]
        if pictures:
            name = pictures[0][0]
            raise CoopInitError(
                f"The data are whole numbers ({shown}), but D and the Langevin chain need floating point in the range "
                "that G produces. Say how your loop scales them, e.g. for a G that ends in tanh: "
                f"adapter=coopinit_plugin.Adapter(real=lambda batch: {name}.float() / 127.5 - 1)"
            )
        raise CoopInitError(
            f"No data found in a batch: {shown}. Expected a floating-point tensor of shape (N, ...), such as images "
            "(N, C, H, W); these look like labels. Let the loader yield the data too, or say where they are: "
            "adapter=coopinit_plugin.Adapter(real=lambda batch: batch[0])"
        )

    def _data(self, out: Any) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        """Which part of the batch is the data, and which of G's output: those that have one shape."""
        parts = list(named_tensors(out))
        if self.given.real is not None:
            return self._data_given(out, parts)
        floating = [
            (name, keys, tensor) for name, keys, tensor in self.named if tensor.is_floating_point() and tensor.ndim >= 2
        ]
        if len(parts) > 1 and [p[2].shape for p in parts] == [f[2].shape for f in floating] and self.source is None:
            nest = tree_flatten(out)[1]
            where = [keys for _, keys, _ in floating]
            self._found("data", f"{len(parts)} tensors", "as G gives them")
            return (lambda batch: tree_unflatten([get(batch, keys) for keys in where], nest)), (lambda out: out)
        fits = [
            (name, keys, tensor, part)
            for name, keys, tensor in floating
            for part in parts
            if part[2].shape == tensor.shape and keys != self.source
        ]
        if not fits:
            raise CoopInitError(self._mismatch(floating, parts))
        if len({keys for _, keys, _, _ in fits}) > 1:
            names = ", ".join(dict.fromkeys(name for name, _, _, _ in fits))
            raise CoopInitError(
                f"Which tensor of the batch is the data? {names} all have the shape of G's output "
                f"{tuple(fits[0][2].shape)}. Say it: adapter=coopinit_plugin.Adapter(real=lambda batch: {fits[0][0]})"
            )
        if len(fits) > 1:
            names = ", ".join(f"out{part[0][5:]}" for _, _, _, part in fits)
            raise CoopInitError(
                f"Which part of G's output is the sample? {names} all have the data's shape. Say it: "
                "adapter=coopinit_plugin.Adapter(generate=lambda G, z: G(z)[0])"
            )
        name, keys, tensor, (_, where_out, _) = fits[0]
        self._found("data", describe(tensor), f"{name}, has the shape of G's output")
        if where_out:
            self._found("G's sample", "out" + "".join(f"[{key!r}]" for key in where_out), "has the data's shape")
        return (lambda batch: get(batch, keys)), (lambda out: get(out, where_out))

    def _data_given(self, out: Any, parts: list[Named]) -> tuple[Callable[[Any], Any], Callable[[Any], Any]]:
        assert self.given.real is not None
        x = self.given.real(self.batch)
        leaves = tree_leaves(x)
        if not leaves or not all(isinstance(leaf, Tensor) and leaf.is_floating_point() for leaf in leaves):
            raise CoopInitError(
                f"Adapter.real returned {describe(x)}; expected a floating-point tensor (N, ...) or a nest of such, "
                "in the range that G produces, e.g. real=lambda batch: batch[0].float() / 127.5 - 1"
            )
        self._found("data", ", ".join(describe(leaf) for leaf in leaves), "given (real)")
        shapes = [leaf.shape for leaf in leaves]
        if [part[2].shape for part in parts] == shapes:
            nest = tree_flatten(x)[1]
            return self.given.real, (lambda out: tree_unflatten([t for _, _, t in named_tensors(out)], nest))
        fits = [part for part in parts if len(shapes) == 1 and part[2].shape == shapes[0]]
        if len(fits) != 1 or self.given.generate is not None:
            raise CoopInitError(self._mismatch([("real(batch)", (), leaf) for leaf in leaves], parts))
        where = fits[0][1]
        return self.given.real, (lambda out: get(out, where))

    def _mismatch(self, data: list[Named], parts: list[Named]) -> str:
        """Why data and G's output do not go together, and what to do."""
        gave = ", ".join(str(tuple(tensor.shape)) for _, _, tensor in parts) or "no tensor"
        have = ", ".join(f"{name} {tuple(tensor.shape)}" for name, _, tensor in data)
        return (
            f"G's output does not match the data: G gave {gave}, the loader gives {have}. D compares the two, so "
            "their shapes must be the same. Resize or reorder the loader's data, or G; or say how your own loop "
            "makes them alike: adapter=coopinit_plugin.Adapter(real=lambda batch: ..., generate=lambda G, z: ...)"
        )

    def _check_data(self, x: Any) -> None:
        for leaf in tree_leaves(x):
            if leaf.ndim < 2:
                raise CoopInitError(
                    f"The data have shape {tuple(leaf.shape)}; expected (N, ...) with at least two dimensions. For one "
                    "number per sample: adapter=coopinit_plugin.Adapter(real=lambda batch: batch[0].unsqueeze(1))"
                )
            if not torch.isfinite(leaf).all():
                raise CoopInitError(
                    f"The data are not finite: {int((~torch.isfinite(leaf)).sum())} of {leaf.numel()} numbers of the "
                    "first batch are NaN or infinite. Clean or drop those samples in the dataset (torch.nan_to_num)."
                )
            if leaf.numel() and float(leaf.max()) == float(leaf.min()):
                raise CoopInitError(
                    f"The data are constant: every number of the first batch is {float(leaf.max()):g}. There is "
                    "nothing to learn from it; check the loader's transforms and its scaling."
                )

    def _ranges(self, x: Any, fake: Any) -> None:
        for ours, theirs in zip(tree_leaves(fake), tree_leaves(x), strict=True):
            low, high = float(theirs.min()), float(theirs.max())
            glow, ghigh = float(ours.min()), float(ours.max())
            self._found("range", f"[{low:.3g}, {high:.3g}]", f"data; G starts at [{glow:.3g}, {ghigh:.3g}]")
        final = last_activation(self.G)
        if final is not None and not isinstance(fake, (list, tuple, dict)):
            name, bottom, top = final
            margin = 0.01 * (top - bottom)
            if low < bottom - margin or high > top + margin:
                self.warnings.append(
                    f"G's output spans [{bottom:g}, {top:g}] ({name}), your data [{low:.3g}, {high:.3g}]: G can never "
                    "reach them. Scale the data as your loop does: Adapter(real=lambda batch: ...)."
                )
            elif bottom < 0 <= low and high > 0.5 * top:
                self.warnings.append(
                    f"G's output spans [{bottom:g}, {top:g}] ({name}), your data only [{low:.3g}, {high:.3g}]; "
                    "data in [0, 1] usually want scaling: Adapter(real=lambda batch: batch[0] * 2 - 1)."
                )

    # --- generator

    def _generator(self) -> tuple[Callable[..., Any], Callable[..., Any], Any]:
        """(latent, generate, G's output) — proved by a forward pass."""
        if self.given.latent is not None:
            latent = self.given.latent
            generate = self.given.generate or call_generator
            z = latent(self.n, self.device, self.batch)
            self._found("latent", describe(z), "given (latent)")
            return latent, generate, self._run(generate, z)
        if self.given.generate is not None and not list(self._latents()):
            raise CoopInitError(self._no_latent([]))
        tried: list[str] = []
        generate = self.given.generate or call_generator
        for latent, how in list(self._latents())[:ATTEMPTS]:
            z = latent(self.n, self.device, self.batch)
            try:
                out = self._run(generate, z, quietly=True)
            except Exception as error:
                tried.append(f"  G({describe(z)}): {type(error).__name__}: {str(error).splitlines()[0][:200]}")
                continue
            if not self._fits(out):
                tried.append(f"  G({describe(z)}) gave {describe(out)}")
                self._misfit = out
                continue
            self._found("latent", describe(z), how)
            return latent, generate, out
        misfit = getattr(self, "_misfit", None)
        if misfit is not None and all(" gave " in line for line in tried):
            floating = [named for named in self.named if named[2].is_floating_point() and named[2].ndim >= 2]
            raise CoopInitError(self._mismatch(floating, list(named_tensors(misfit))))
        raise CoopInitError(self._no_latent(tried))

    def _no_latent(self, tried: list[str]) -> str:
        lines = "\n".join(["Tried:", *tried]) if tried else "No size was found in its attributes or first layer."
        return (
            f"What does G ({type(self.G).__name__}) take? {lines}\n"
            "Say what your loop passes to it, e.g. adapter=coopinit_plugin.Adapter("
            "latent=lambda n, device, batch: torch.randn(n, 100, device=device))"
        )

    def _run(self, generate: Callable[..., Any], z: Any, *, quietly: bool = False) -> Any:
        try:
            with torch.no_grad():
                return generate(self.G, fresh(z))
        except Exception as error:
            if quietly:
                raise
            raise CoopInitError(
                f"G ({type(self.G).__name__}) does not take {describe(z)}: {type(error).__name__}: {error}\n"
                "Give what your loop passes to it, adapter=coopinit_plugin.Adapter(latent=lambda n, device, batch: "
                "..., generate=lambda G, z: G(z))"
            ) from error

    def _fits(self, out: Any) -> bool:
        """Whether some part of G's output has the shape of some part of the data."""
        if self.given.real is not None:
            wanted = {leaf.shape for leaf in tree_leaves(self.given.real(self.batch)) if isinstance(leaf, Tensor)}
        else:
            wanted = {t.shape for _, keys, t in self.named if t.is_floating_point() and t.ndim >= 2}
        return any(t.shape in wanted for _, _, t in named_tensors(out))

    def _latents(self) -> Iterator[tuple[Callable[..., Any], str]]:
        """Latents that G may take, the likeliest first."""
        names = required_arguments(self.G)
        size = next(((n, getattr(self.G, n)) for n in LATENT_SIZES if is_count(getattr(self.G, n, None))), None)
        first = first_layer(self.G)
        shapes: list[tuple[tuple[int, ...], str]] = []
        if size is not None:
            shapes += [(tail, f"G.{size[0]} = {size[1]}") for tail in tails(size[1], first)]
        if first is not None and (size is None or first[1] != size[1]):
            shapes += [(tail, f"G's first layer, {first[2]}") for tail in tails(first[1], first)]
        takes_list = bool(names) and names[0] in LISTS
        for tail, how in shapes:
            for as_list in (takes_list, not takes_list) if takes_list else (False,):
                yield normal(tail, as_list), f"{how}; standard normal assumed"

    # --- discriminator

    def _discriminator(self, x: Any, z: Any) -> tuple[Callable[..., Tensor], bool]:
        """(score, whether D ends in a sigmoid) — proved by a forward pass."""
        if self.given.score is not None:
            f = self._score_given(x, z)
            self._found("D's score", describe(f), "given (score)")
            return self.given.score, False
        seen: list[tuple[str, nn.Module, Any, Any]] = []
        probe = _Sigmoids()
        try:
            with executed(self.D, seen), probe:
                out = self.D(fresh(x))
        except Exception as error:
            raise CoopInitError(
                f"D ({type(self.D).__name__}) does not take the data {describe(x)}: {type(error).__name__}: "
                f"{str(error).splitlines()[0][:200] if str(error) else ''}\n"
                "Show how your loop calls it, e.g. adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: "
                "D(x, batch[1])) or, where D sees a condition beside x, D(torch.cat([batch['A'], x], 1))"
            ) from error
        pick, how = self._pick(out)
        f = pick(out)
        self._finite(f)
        sigmoid = ends_in_sigmoid(f)
        if not sigmoid:
            self._found("D's score", describe(f), how)
            self._probability(f)
            return (lambda D, x, z, batch: pick(D(x))), False
        name = next((n for n, m, _, o in reversed(seen) if isinstance(m, nn.Sigmoid) and o.numel() == f.numel()), None)
        self._found("D's score", describe(f), f"{how}; the logit before its final sigmoid")
        if name is not None:
            return logit_of_module(name), True
        return logit_of_function, True

    def _score_given(self, x: Any, z: Any) -> Tensor:
        assert self.given.score is not None
        try:
            f = self.given.score(self.D, fresh(x), fresh(z), self.batch)
        except Exception as error:
            raise CoopInitError(
                f"Adapter.score failed on a real batch, x = {describe(x)}: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(f, Tensor) or not f.is_floating_point():
            raise CoopInitError(
                f"Adapter.score returned {describe(f)}; expected a tensor of logits, one number per sample, e.g. "
                "score=lambda D, x, z, batch: D(x)[0]"
            )
        self._finite(f)
        return f

    def _pick(self, out: Any) -> tuple[Callable[[Any], Tensor], str]:
        """The score in D's output."""
        if isinstance(out, Tensor):
            self._per_sample(out)
            return (lambda out: out), "D(x)"
        raise CoopInitError(
            f"Which part of D's output is the score? D(x) gave {describe(out)}. Say it, e.g. "
            "adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: D(x)[0])"
        )

    def _per_sample(self, f: Tensor) -> None:
        if f.ndim == 2 and f.shape[0] == self.n and f.shape[1] > 1:
            raise CoopInitError(
                f"D gives {f.shape[1]} numbers per sample, shape {tuple(f.shape)}: scores to average, or classes of "
                "which one counts? Say it, e.g. adapter=coopinit_plugin.Adapter(score=lambda D, x, z, batch: "
                "D(x).mean(1))"
            )

    def _finite(self, f: Tensor) -> None:
        if not torch.isfinite(f).all():
            raise CoopInitError(
                "D's logits on the first real batch are not finite. Check D's weights (were they loaded from a run "
                "that had diverged?) and the range of the data."
            )

    def _probability(self, f: Tensor) -> None:
        if f.numel() > 1 and float(f.min()) >= 0 and float(f.max()) <= 1 and float(f.max()) > 0:
            self.warnings.append(
                "All of D's scores lie in [0, 1] but no sigmoid was seen. If they are probabilities, give the logit: "
                "Adapter(score=lambda D, x, z, batch: torch.logit(D(x), 1e-6))."
            )

    def _sign(self) -> bool:
        """The sign that the user's own loss tells; it overrules the default."""
        assert self.given.d_loss is not None
        high = infer_sign(self.given.d_loss)
        self._found("sign", "real is high" if high else "real is low", "told by d_loss")
        return high

    def _layers(self) -> None:
        for letter, module in (("G", self.G), ("D", self.D)):
            kinds = {type(m).__name__ for m in module.modules() if isinstance(m, _NormBase)}
            kinds |= {type(m).__name__ for m in module.modules() if "Dropout" in type(m).__name__}
            kinds |= {type(m).__name__ for m in module.modules() if isinstance(m, nn.RNNBase)}
            if any("spectral" in type(h).__name__.lower() for h in _normalisation_hooks(module)):
                kinds.add("spectral norm")
            count = sum(p.numel() for p in module.parameters())
            trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
            frozen = "" if trained == count else f", {count - trained:,} of them frozen"
            self._found(letter, f"{type(module).__name__}, {count:,} parameters{frozen}", ", ".join(sorted(kinds)))
        self._found("batch", str(self.n), "kept throughout; smaller batches are left out")


Named = tuple[str, tuple[Any, ...], Tensor]


def named_tensors(nest: Any, keys: tuple[Any, ...] = ()) -> Iterator[Named]:
    """Each tensor in nested lists, tuples and mappings: how to write it, its keys, itself."""
    if isinstance(nest, Tensor):
        yield "batch" + "".join(f"[{key!r}]" for key in keys), keys, nest
    elif isinstance(nest, Mapping):
        for key in nest:
            yield from named_tensors(nest[key], (*keys, key))
    elif isinstance(nest, (list, tuple)):
        for index, part in enumerate(nest):
            yield from named_tensors(part, (*keys, index))


def get(nest: Any, keys: tuple[Any, ...]) -> Any:
    """What stands in the nest under the keys."""
    return reduce(lambda part, key: part[key], keys, nest)


def describe(value: Any) -> str:
    """A value as its users know it: shape and dtype of tensors, containers around them."""
    if isinstance(value, Tensor):
        kind = str(value.dtype).removeprefix("torch.")
        return f"{tuple(value.shape)} {kind}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key!r}: {describe(part)}" for key, part in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        inside = ", ".join(describe(part) for part in value)
        return f"[{inside}]" if isinstance(value, list) else f"({inside})"
    return type(value).__name__


def is_count(value: Any) -> bool:
    """Whether an attribute is a size."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def required_arguments(module: nn.Module) -> list[str]:
    """Names of the positional arguments that forward cannot do without."""
    arguments = signatures.signature(module.forward).parameters.values()
    return [
        a.name for a in arguments if a.default is a.empty and a.kind in (a.POSITIONAL_ONLY, a.POSITIONAL_OR_KEYWORD)
    ]


def first_layer(module: nn.Module) -> tuple[nn.Module, int, str] | None:
    """The first registered layer that has a weight: (layer, input size, its name)."""
    for name, child in module.named_modules():
        for attribute in ("in_features", "in_channels", "input_size"):
            if is_count(getattr(child, attribute, None)) and list(child.parameters(recurse=False)):
                return child, int(getattr(child, attribute)), f"{name}: {type(child).__name__}"
        weight = getattr(child, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(child, nn.Embedding):
            return child, int(weight.shape[1]), f"{name}: {type(child).__name__}"
    return None


def tails(size: int, first: tuple[nn.Module, int, str] | None) -> list[tuple[int, ...]]:
    """Shapes of one latent of that size, the likeliest for that first layer first."""
    layer = first[0] if first is not None else None
    if isinstance(layer, nn.modules.conv._ConvNd) and first is not None and first[1] == size:
        return [(size, *[1] * len(layer.kernel_size)), (size,)]
    return [(size,)]


def normal(tail: tuple[int, ...], as_list: bool = False) -> Callable[..., Any]:
    """A standard normal latent of that shape."""

    def latent(n: int, device: torch.device, batch: Any) -> Any:
        z = torch.randn(n, *tail, device=device)
        return [z] if as_list else z

    return latent


def call_generator(G: nn.Module, z: Any) -> Any:
    """``G(*z)`` for a tuple, else ``G(z)``."""
    return G(*z) if isinstance(z, tuple) else G(z)


def ends_in_sigmoid(f: Tensor) -> bool:
    """Whether f's last operation, reshapes and averages aside, was a sigmoid."""
    node = f.grad_fn
    while node is not None and node.name().startswith(RESHAPES) and node.next_functions:
        node = node.next_functions[0][0]
    return node is not None and node.name().startswith("Sigmoid")


def logit_of_module(name: str) -> Callable[..., Tensor]:
    """The score that goes into D's last ``nn.Sigmoid``, taken by a hook for the length of the call."""

    def score(D: nn.Module, x: Any, z: Any, batch: Any) -> Tensor:
        taken: list[Tensor] = []
        sigmoid = unwrap(D).get_submodule(name)
        handle = sigmoid.register_forward_pre_hook(lambda _, given: taken.append(given[0]))
        try:
            D(x)
        finally:
            handle.remove()
        return taken[-1]

    return score


def logit_of_function(D: nn.Module, x: Any, z: Any, batch: Any) -> Tensor:
    """The score that goes into the last call of a sigmoid in D's forward."""
    with _Sigmoids() as sigmoids:
        D(x)
    return sigmoids.taken[-1]


class _Sigmoids(TorchFunctionMode):
    """Keep what is given to every sigmoid."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("sigmoid", "sigmoid_"):
            self.taken.append(args[0].clone() if func.__name__ == "sigmoid_" else args[0])
        return func(*args, **(kwargs or {}))


def last_activation(G: nn.Module) -> tuple[str, float, float] | None:
    """(name, lowest, highest) of the bounded function that G ends in, where it is a module."""
    modules = [m for m in G.modules() if not list(m.children())]
    if modules and isinstance(modules[-1], nn.Tanh):
        return "tanh", -1.0, 1.0
    if modules and isinstance(modules[-1], nn.Sigmoid):
        return "sigmoid", 0.0, 1.0
    return None


def _normalisation_hooks(module: nn.Module) -> Iterator[Any]:
    for child in module.modules():
        yield from child._forward_pre_hooks.values()
        if type(child).__name__ == "_SpectralNorm":
            yield child
