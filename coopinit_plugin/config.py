"""How the warm-up runs: a frozen dataclass whose default needs no number from the user."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal, NamedTuple

from coopinit_plugin.errors import CoopInitError

ALSO_CALLED = {  # the words that people type for a loss, in lower case, without "loss" and all but letters and digits
    "logistic": "bce bcewithlogits ns nsgan nonsat nonsaturating softplus vanilla minimax dcgan crossentropy "
    "binarycrossentropy logisticns dragan gan r1",
    "hinge": "geometric hingegan ganhinge",
    "least_squares": "ls lsgan mse l2 leastsquare meansquarederror ganls",
    "wasserstein": "w wgan wgangp wassersteingp wgp wassersteingan wassersteingangp emd",
    "relativistic": "rgan rsgan rpgan ragan rasgan r3gan relativisticgan relativisticaverage",
}
HANDOVERS = ("auto", "none", *ALSO_CALLED)


def _letters(word: Any) -> str:
    """A word as it is compared: its letters and digits, without "loss"."""
    return re.sub(r"loss|[^a-z0-9]", "", str(word).lower())


MEANT = {word: ours for ours, words in ALSO_CALLED.items() for word in (_letters(ours), *words.split())}


class Rule(NamedTuple):
    """What a field may be."""

    expected: str  # in words
    kind: type  # int for whole numbers, float for all
    within: Callable[[Any], bool]  # whether a number lies in the bounds
    instead: tuple[str | None, ...] = ()  # what may stand in place of a number

    def allows(self, value: Any) -> bool:
        """Whether the value keeps to the rule."""
        if value is None or isinstance(value, str):
            return value in self.instead
        return isinstance(value, (int, self.kind)) and not isinstance(value, bool) and self.within(value)


AT_LEAST_0 = Rule("a finite number of at least 0", float, lambda x: 0 <= x < math.inf)
LEARNING_RATE = Rule("a finite number above 0 and at most 1", float, lambda x: 0 < x <= 1)
BETA = Rule("a number in [0, 1)", float, lambda x: 0 <= x < 1)
RULES = {
    "iterations": Rule('"auto" or a whole number of at least 0', int, lambda x: x >= 0, ("auto",)),
    "max_iterations": Rule("a whole number of at least 1", int, lambda x: x >= 1),
    "max_seconds": Rule("None or a finite number above 0", float, lambda x: 0 < x < math.inf, (None,)),
    "langevin_steps": Rule('"auto" or a whole number of at least 1', int, lambda x: x >= 1, ("auto",)),
    "step_size": Rule('"balanced" or a finite number above 0', float, lambda x: 0 < x < math.inf, ("balanced",)),
    "noise": Rule("None or a finite number of at least 0", float, AT_LEAST_0.within, (None,)),
    "lr_generator": LEARNING_RATE,
    "lr_discriminator": LEARNING_RATE,
    "averaging": Rule("a finite number of at least 0 and at most 0.999", float, lambda x: 0 <= x <= 0.999),
    "energy_l2": AT_LEAST_0,
    "r1": AT_LEAST_0,
    "seed": Rule(f"a whole number of at least 0 and at most {2**63 - 1}", int, lambda x: 0 <= x < 2**63),
}


@dataclass(frozen=True)
class WarmStartConfig:
    """Settings of :func:`coopinit_plugin.warm_start`.

    Lengths are in units of σ, the standard deviation of the data.

    Args:
        iterations: Cooperative iterations, or ``"auto"``: stop when the sliced Wasserstein distance between generated
            and real samples is down to 0.16 σ, or no longer falls. 0: the hand-over alone, in seconds: nothing moves
            but scale and shift of D's output. With a gradient penalty that often gives most of the gain.
        max_iterations: The most that ``"auto"`` may take.
        max_seconds: The most seconds that the iterations may take, counted from the call; the hand-over takes the time
            of some more iterations after that. ``None``: no such bound.
        langevin_steps: Steps K of the chain that refines each generated sample. ``"auto"``: 2; the chain goes on
            from where it stood, so that few steps reach far.
        step_size: ``"balanced"`` adapts the drift so that refined samples score as real ones do. A number δ
            is the textbook chain: drift δ²/2·∇f and, unless `noise` is given, noise δ; both in σ.
        noise: Standard deviation of the noise added per Langevin step, in σ. ``None``: 0.06 with the balanced step,
            δ with a fixed one.
        lr_generator: Adam's learning rate for G in the warm-up.
        lr_discriminator: Adam's learning rate for D in the warm-up; with ``langevin_steps="auto"`` up to twice this, as
            far as the chain brings refined samples to the score of real ones.
        betas: Adam's β₁, β₂, for both.
        averaging: G comes back with the running mean of its weights over the iterations; this share of the mean is kept
            at each one, so that 0.9 looks back about ten. 0: the weights that the last iteration left.
        energy_l2: Weight of mean f(x)² + mean f(x̃)² in D's loss; it ties down offset and scale of the energy.
        handover: The adversarial loss that follows, to which D's logits are fitted by one scale and one shift:
            ``"logistic"`` (also called non-saturating, softplus, BCE), ``"hinge"``, ``"least_squares"`` (LSGAN, MSE),
            ``"wasserstein"`` (WGAN-GP), ``"relativistic"``; the other names are understood, too. ``"auto"`` takes the
            adapter's `d_loss`, else logistic if D ends in a sigmoid, else unit scale. ``"none"`` leaves D as the
            warm-up made it.
        r1: γ of the R1 penalty γ/2·E‖∇f(x)‖² that your loss puts on real samples (10 in StyleGAN2); 0 if there is
            none. Logits as steep as the loss alone asks for would be flattened by it at once.
        seed: Seeds every random generator during the warm-up; their states are put back after it.

    Raises:
        CoopInitError: for a value out of range or a field that does not exist.
    """

    iterations: int | Literal["auto"] = "auto"
    max_iterations: int = 400
    max_seconds: float | None = None
    langevin_steps: int | Literal["auto"] = "auto"
    step_size: float | Literal["balanced"] = "balanced"
    noise: float | None = None
    lr_generator: float = 2e-3
    lr_discriminator: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    averaging: float = 0.9
    energy_l2: float = 0.1
    handover: str = "auto"
    r1: float = 0.0
    seed: int = 0

    def __new__(cls, *_: Any, **given: Any) -> WarmStartConfig:
        """Name the nearest field if a keyword does not exist."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1) or known
                raise CoopInitError(
                    f"WarmStartConfig has no field {name!r}. Did you mean {' or '.join(map(repr, near))}?"
                )
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Refuse a wrong value at once, by name."""
        for name, rule in RULES.items():
            if not rule.allows(getattr(self, name)):
                self._refuse(name, rule.expected)
        if isinstance(self.betas, list):  # as JSON gives them back
            object.__setattr__(self, "betas", tuple(self.betas))
        if not (isinstance(self.betas, tuple) and len(self.betas) == 2 and all(map(BETA.allows, self.betas))):
            self._refuse("betas", "two numbers in [0, 1), as Adam takes them, e.g. (0.5, 0.999)")
        if isinstance(self.handover, str):
            object.__setattr__(self, "handover", MEANT.get(_letters(self.handover), self.handover))
        if self.handover not in HANDOVERS:
            near = difflib.get_close_matches(_letters(self.handover), MEANT, n=1) if self.handover else []
            hint = f" (did you mean {MEANT[near[0]]!r}?)" if near else ""
            own = "adapter=coopinit_plugin.Adapter(d_loss=lambda f_real, f_fake: ...)"
            self._refuse(
                "handover", f"one of {', '.join(map(repr, HANDOVERS))}{hint}. For a loss of your own give {own}"
            )

    @property
    def noise_scale(self) -> float:
        """Noise per Langevin step in σ, resolved (see `noise`)."""
        if self.noise is not None:
            return float(self.noise)
        return 0.06 if self.step_size == "balanced" else float(self.step_size)

    @property
    def most_iterations(self) -> int:
        """The number of iterations that the warm-up cannot exceed."""
        return self.max_iterations if self.iterations == "auto" else int(self.iterations)

    def _refuse(self, name: str, expected: str) -> None:
        value = getattr(self, name)
        raise CoopInitError(f"WarmStartConfig: {name}={value!r} was given, but {name} must be {expected}.")
