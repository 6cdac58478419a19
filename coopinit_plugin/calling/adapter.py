"""How this generator and this discriminator are called."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.method.logit_map import LOSSES, Loss
from coopinit_plugin.method.pair import Pair, release_graphs
from coopinit_plugin.nests import first_line, mapped, move

Row = tuple[str, str, str]  # one line of the table that an adapter prints: what, its value, how that was found
HOOKS = {  # each hook's arguments, and an example of what it returns
    "real": ("batch", 'batch["image"]'),
    "latent": ("n, device, batch", "torch.randn(n, 100, device=device)"),
    "generate": ("G, z", "G(z)"),
    "score": ("D, x, z, batch", "D(x)"),
    "d_loss": ("f_real, f_fake", "torch.relu(1 - f_real).mean() + torch.relu(1 + f_fake).mean()"),
    "after_d_step": ("D", "[p.data.clamp_(-0.01, 0.01) for p in D.parameters()]"),
}


@dataclass(frozen=True)
class Adapter:
    """How to call a pair of networks. :func:`coopinit_plugin.inspect` infers `real`, `latent`, `generate` and `score`.

    Args:
        real: ``(batch) -> x`` of shape ``(N, *data_shape)``: the data in one batch of the loader, as D expects them.
        latent: ``(n, device, batch) -> z``, anything that `generate` takes.
        generate: ``(G, z) -> x̂`` of the shape of `x`.
        score: ``(D, x, z, batch) -> f``, the logit (before any sigmoid), one number per sample if D gives one;
            a patch map is averaged over its positions.
        real_is_high: Whether D gives real samples the higher score; :func:`infer_sign` tells from your own loss.
        d_loss: ``(f_real, f_fake) -> loss``, D's own loss in your loop, on raw scores. It settles the hand-over,
            unless a word names the loss, and whether real samples score high.
        after_d_step: ``(D) -> None``, what your loop does after each step of D, e.g. weight clipping.
        mask: 1 where the chain may move x, a tensor broadcast to x or ``(x) -> mask``.

    ``x`` may be a tensor or a nest of lists, tuples and dicts of tensors. The other fields are filled in by
    :func:`coopinit_plugin.inspect`: whether D ends in a sigmoid, and what ``print`` shows.

    Raises:
        CoopInitError: if a hook is no function, or `real_is_high` no boolean.
    """

    real: Callable[[Any], Any] | None = None
    latent: Callable[[int, torch.device, Any], Any] | None = None
    generate: Callable[[nn.Module, Any], Any] | None = None
    score: Callable[[nn.Module, Any, Any, Any], Tensor] | None = None
    real_is_high: bool = True
    d_loss: Callable[[Tensor, Tensor], Tensor] | None = None
    after_d_step: Callable[[nn.Module], None] | None = None
    mask: Any = None
    ends_in_sigmoid: bool = field(default=False, kw_only=True)
    findings: tuple[Row, ...] = field(default=(), repr=False, compare=False, kw_only=True)
    warnings: tuple[str, ...] = field(default=(), repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        """Refuse what cannot be called."""
        for name, (_, example) in HOOKS.items():
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise CoopInitError(
                    f"Adapter: {name}={hook!r} was given, but {name} is a function. "
                    f"Write for example {line(**{name: example})}."
                )
        if not isinstance(self.real_is_high, bool):
            raise CoopInitError(f"Adapter: real_is_high={self.real_is_high!r} was given, but it is True or False.")

    def __str__(self) -> str:
        """What was found and how, as a table; the warnings below it."""
        if not self.findings:
            return repr(self)
        widths = [max(len(row[column]) for row in self.findings) for column in (0, 1)]
        lines = [f"{what:<{widths[0]}}  {value:<{widths[1]}}  {how}".rstrip() for what, value, how in self.findings]
        return "\n".join(lines + [f"! {warning}" for warning in self.warnings])


@dataclass
class Findings:
    """What an inspection has found so far."""

    rows: list[Row] = field(default_factory=list)  # of the table that the adapter prints
    warnings: list[str] = field(default_factory=list)  # below it


def line(**hooks: str) -> str:
    """``Adapter(...)`` as a user writes it, from what each hook returns: ``line(score="D(x)[0]")``."""
    heads = {name: f"lambda {arguments}: " for name, (arguments, _) in HOOKS.items()}
    return f"Adapter({', '.join(name + '=' + heads.get(name, '') + body for name, body in hooks.items())})"


def unclear(question: str, *lines: str) -> CoopInitError:
    """The error for what cannot be known: what was seen and asked, and the answers as :func:`line` writes them."""
    return CoopInitError(f"{question}\nSay it, e.g. adapter=coopinit_plugin.{' or '.join(lines)}")


@contextmanager
def users_hook(hook: str, given: str) -> Iterator[None]:
    """Say of an error inside one of the user's hooks which one it was, what it was given, and how it is called."""
    try:
        yield
    except Exception as error:
        arguments, example = HOOKS[hook]
        raise CoopInitError(
            f"Adapter.{hook} failed on {given}: {first_line(error)}\n"
            f"It is called as {hook}({arguments}), e.g. {line(**{hook: example})}"
        ) from error


def infer_sign(d_loss: Callable[[Tensor, Tensor], Tensor]) -> bool:
    """Whether D is trained to give real samples the higher score: the value for ``Adapter(real_is_high=...)``.

    Args:
        d_loss: D's loss, ``(f_real, f_fake) -> loss``. It is asked at f(real) = +1, f(fake) = −1 and the reverse.

    Raises:
        CoopInitError: if both give the same loss, or no finite one.

    Example:
        >>> infer_sign(lambda real, fake: torch.relu(1 - real).mean() + torch.relu(1 + fake).mean())
        True
    """
    high, of_logits = torch.ones(4, 1), loss_of_logits(d_loss)
    up, down = float(of_logits(high, -high)), float(of_logits(-high, high))
    if up == down or up != up or down != down:
        raise CoopInitError(
            f"infer_sign: d_loss gave {up:g} at f(real) = +1, f(fake) = -1 and {down:g} at the reverse, which tells no "
            "sign. Is it D's loss as (f_real, f_fake) -> loss, on logits? Else say Adapter(real_is_high=True) or False."
        )
    return up < down


def loss_of_logits(d_loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """D's loss as a function of logits, even if the user's takes probabilities (``BCELoss`` after a sigmoid).

    It is taken to want probabilities if it fails on scores outside [0, 1].
    """
    above, below = torch.full((4, 1), 2.0), torch.full((4, 1), -1.0)
    try:
        on_probabilities = any(bool(d_loss(*pair).isnan().any()) for pair in ((above, below), (below, above)))
    except Exception:
        on_probabilities = True

    def loss(f_real: Tensor, f_fake: Tensor) -> Tensor:
        with users_hook("d_loss", f"scores of shape {tuple(f_real.shape)}"):
            if on_probabilities:
                return d_loss(torch.sigmoid(f_real), torch.sigmoid(f_fake)).mean()
            return d_loss(f_real, f_fake).mean()

    return loss


def following_loss(asked: str, adapter: Adapter) -> tuple[str, Loss | None]:
    """The kind of adversarial loss that follows, and D's loss as a function of signed logits, if it has one.

    "auto" is decided by the adapter: by its `d_loss`, or else by whether D ends in a sigmoid.
    """
    if asked == "auto" and adapter.d_loss is not None:
        own, sign = loss_of_logits(adapter.d_loss), 1.0 if adapter.real_is_high else -1.0
        return "d_loss", lambda real, fake: own(sign * real, sign * fake)
    if asked == "auto":
        asked = "logistic" if adapter.ends_in_sigmoid else "unit"
    return asked, LOSSES.get(asked)


def bound(
    G: nn.Module, D: nn.Module, adapter: Adapter, precision: Callable[[], AbstractContextManager[Any]] = nullcontext
) -> Pair:
    """G and D, plain modules, as the method calls them: run in `precision`, e.g. autocast, giving single precision."""
    real, latent, generate, score, given_mask = (
        getattr(adapter, name) for name in ("real", "latent", "generate", "score", "mask")
    )

    def generated(z: Any) -> Any:
        release_graphs(G)
        with precision():
            return move(generate(G, fresh(z)), None)

    def logits(x: Any, z: Any, batch: Any) -> Tensor:
        with precision():  # D may work in place
            f: Tensor = move(score(D, mapped(torch.clone, x), fresh(z), batch), None)
        return f if adapter.real_is_high else -f

    def after_d_step() -> None:
        if adapter.after_d_step is not None:
            with users_hook("after_d_step", f"D, a copy of your {type(D).__name__}"):
                adapter.after_d_step(D)

    def mask(x: Any) -> Any:
        return move(given_mask(x) if callable(given_mask) else given_mask, tree_leaves(x)[0].device)

    return Pair(
        *(G, D),
        real=lambda batch: move(real(batch), None),
        latent=lambda n, device, batch: move(latent(n, device, batch), device),
        generate=generated,
        logits=logits,
        after_d_step=after_d_step,
        mask=mask,
    )


def fresh(z: Any) -> Any:
    """The same tensors in new containers, for networks that change the container they are given."""
    return mapped(lambda leaf: leaf, z)
