"""How the warm-up runs: a frozen dataclass whose default needs no number from the user."""

import difflib
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any, Literal

from coopinit_plugin.errors import CoopInitError

ALSO_CALLED = {  # the words that people type for a loss: small letters and digits alone, without "loss"
    "logistic": "bce bcewithlogits ns nsgan nonsat nonsaturating softplus vanilla minimax dcgan crossentropy "
    "binarycrossentropy logisticns dragan gan r1",
    "hinge": "geometric hingegan ganhinge",
    "least_squares": "leastsquares leastsquare ls lsgan mse l2 meansquarederror ganls",
    "wasserstein": "w wgan wgangp wassersteingp wgp wassersteingan wassersteingangp emd",
    "relativistic": "rgan rsgan rpgan ragan rasgan r3gan relativisticgan relativisticaverage",
}
HANDOVERS = ("auto", "none", *ALSO_CALLED)
MEANT = {word: ours for ours in HANDOVERS for word in (ours, *ALSO_CALLED.get(ours, "").split())}

NUMBERS: tuple[tuple[str, type, Callable[[float], bool], tuple[str, ...]], ...] = (
    # in words, int for whole numbers or float for all, its bounds; the fields that may be this, or else their default
    ("a whole number of at least 0", int, lambda x: x >= 0, ("iterations",)),
    ("a whole number of at least 1", int, lambda x: x >= 1, ("max_iterations", "langevin_steps")),
    (f"a whole number of at least 0 and at most {2**63 - 1}", int, lambda x: 0 <= x < 2**63, ("seed",)),
    ("a finite number above 0", float, lambda x: 0 < x < math.inf, ("max_seconds", "step_size")),
    ("a finite number of at least 0", float, lambda x: 0 <= x < math.inf, ("noise", "energy_l2", "r1")),
    ("a number above 0 and at most 1", float, lambda x: 0 < x <= 1, ("lr_generator", "lr_discriminator")),
    ("a number of at least 0 and at most 0.999", float, lambda x: 0 <= x <= 0.999, ("averaging",)),
)


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
            warm-up made it, and G as fast.
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

    def __new__(cls, *_: Any, **given: Any) -> "WarmStartConfig":
        """Name the nearest field if a keyword does not exist."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1) or known
                meant = " or ".join(map(repr, near))
                raise CoopInitError(f"WarmStartConfig has no field {name!r}. Did you mean {meant}?")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Refuse a wrong value at once, by name."""
        for expected, kind, within, names in NUMBERS:
            for name in names:
                value, default = getattr(self, name), getattr(type(self), name)
                is_default = type(value) is type(default) and value == default
                is_number = isinstance(value, (int, kind)) and not isinstance(value, bool)
                if not is_default and not (is_number and within(value)):
                    self._refuse(name, expected if isinstance(default, (int, float)) else f"{default!r} or {expected}")
        if isinstance(self.betas, list):  # as JSON gives them back
            object.__setattr__(self, "betas", tuple(self.betas))
        pair = isinstance(self.betas, tuple) and len(self.betas) == 2
        if not pair or not all(isinstance(beta, (int, float)) and 0 <= beta < 1 for beta in self.betas):
            self._refuse("betas", "two numbers in [0, 1), as Adam takes them, e.g. (0.5, 0.999)")
        word = re.sub("loss|[^a-z0-9]", "", self.handover.lower()) if isinstance(self.handover, str) else ""
        object.__setattr__(self, "handover", MEANT.get(word, self.handover))
        if self.handover not in HANDOVERS:
            near = difflib.get_close_matches(word, MEANT, n=1)
            hint = f" (did you mean {MEANT[near[0]]!r}?)" if near else ""
            own = "For a loss of your own give adapter=coopinit_plugin.Adapter(d_loss=lambda f_real, f_fake: ...)"
            self._refuse("handover", f"one of {', '.join(map(repr, HANDOVERS))}{hint}. {own}")

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
