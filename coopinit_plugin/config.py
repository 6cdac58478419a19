"""How the warm-up runs: a frozen dataclass whose default needs no number from the user."""

from __future__ import annotations

import difflib
import math
from dataclasses import dataclass, fields
from typing import Any, Literal

from coopinit_plugin.errors import CoopInitError

HANDOVERS = ("auto", "none", "logistic", "hinge", "least_squares", "wasserstein", "relativistic")


@dataclass(frozen=True)
class WarmStartConfig:
    """Settings of :func:`coopinit_plugin.warm_start`.

    Lengths are in units of σ, the standard deviation of the data.

    Args:
        iterations: Cooperative iterations, or ``"auto"``: stop when the sliced Wasserstein distance between generated
            and real samples is down to 0.25 σ, or no longer falls.
        max_iterations: The most that ``"auto"`` may take.
        max_seconds: The most seconds that the iterations may take, counted from the call; the hand-over
            comes on top, the time of some more of them. ``None``: no such bound.
        langevin_steps: Steps K of the chain that refines each generated sample. ``"auto"``: 2, and more (up to 10) as
            long as steps of full length do not bring the refined samples up to the score of real ones.
        step_size: ``"balanced"`` adapts the drift so that refined samples score as real ones do. A number δ
            is the textbook chain: drift δ²/2·∇f and, unless `noise` is given, noise δ; both in σ.
        noise: Standard deviation of the noise added per Langevin step, in σ. ``None``: 0.06 with the balanced step,
            δ with a fixed one.
        lr_generator: Adam's learning rate for G in the warm-up.
        lr_discriminator: Adam's learning rate for D in the warm-up; with ``langevin_steps="auto"`` up to twice this, as
            far as a chain of fewer than 4 steps brings refined samples to the score of real ones.
        betas: Adam's β₁, β₂, for both.
        averaging: G comes back with the running mean of its weights over the iterations; this share of the mean is kept
            at each one, so that 0.9 looks back about ten. 0: the weights that the last iteration left.
        energy_l2: Weight of mean f(x)² + mean f(x̃)² in D's loss; it ties down offset and scale of the energy.
        handover: The adversarial loss that follows, to which D's logits are fitted by one scale and one shift:
            ``"logistic"`` (also called non-saturating, softplus, BCE), ``"hinge"``, ``"least_squares"``,
            ``"wasserstein"`` (gradient penalty), ``"relativistic"``. ``"auto"`` takes the adapter's `d_loss`, else
            logistic where D ends in a sigmoid, else unit scale. ``"none"`` leaves D as the warm-up made it.
        r1: γ of the R1 penalty γ/2·E‖∇f(x)‖² that your loss puts on real samples (10 in StyleGAN2); 0 where there is
            none. Logits as steep as the loss alone asks for would be flattened by it at once.
        seed: Seeds every random generator during the warm-up; their states are put back after it.
        compile: Run D through ``torch.compile``. On a CPU it did not pay: on a DCGAN of 32×32 images an iteration took
            0.94 to 1.01 of its time without, and compiling 5 seconds (21 the first time), so that it breaks even after
            450 iterations at best, or never (``python -m tests.benchmarks.overhead --case "DCGAN 32²" --compile``).
            On an H100 an iteration took 23 ms at K = 5 with it, and 22 ms at K = 10 without.

    Raises:
        CoopInitError: for a value out of range or a field that does not exist.
    """

    iterations: int | Literal["auto"] = "auto"
    max_iterations: int = 400
    max_seconds: float | None = None
    langevin_steps: int | Literal["auto"] = "auto"
    step_size: float | Literal["balanced"] = "balanced"
    noise: float | None = None
    lr_generator: float = 5e-4
    lr_discriminator: float = 1e-3
    betas: tuple[float, float] = (0.5, 0.999)
    averaging: float = 0.9
    energy_l2: float = 0.1
    handover: str = "auto"
    r1: float = 0.0
    seed: int = 0
    compile: bool = False

    def __new__(cls, *_: Any, **given: Any) -> WarmStartConfig:
        """Name the nearest field where a keyword does not exist."""
        known = [field.name for field in fields(cls)]
        for name in given:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"Did you mean {near[0]!r}?" if near else f"Its fields are: {', '.join(known)}."
                raise CoopInitError(f"WarmStartConfig has no field {name!r}. {hint}")
        return super().__new__(cls)

    def __post_init__(self) -> None:
        """Refuse a wrong value at once, by name."""
        if isinstance(self.betas, list):  # as JSON gives them back
            object.__setattr__(self, "betas", tuple(self.betas))
        if self.iterations != "auto":
            self._whole("iterations", self.iterations, least=1, otherwise='"auto" or ')
        self._whole("max_iterations", self.max_iterations, least=1)
        if self.max_seconds is not None:
            self._number("max_seconds", self.max_seconds, otherwise="None or ")
        if self.langevin_steps != "auto":
            self._whole("langevin_steps", self.langevin_steps, least=1, otherwise='"auto" or ')
        self._whole("seed", self.seed, least=0)
        if self.seed >= 2**63:
            self._refuse("seed", self.seed, "a whole number below 2**63")
        if self.step_size != "balanced":
            self._number("step_size", self.step_size, otherwise='"balanced" or ')
        if self.noise is not None:
            self._number("noise", self.noise, least=0, otherwise="None or ")
        self._number("lr_generator", self.lr_generator, most=1)
        self._number("lr_discriminator", self.lr_discriminator, most=1)
        self._number("energy_l2", self.energy_l2, least=0)
        self._number("r1", self.r1, least=0)
        self._number("averaging", self.averaging, least=0, most=0.999)
        if not (isinstance(self.betas, tuple) and len(self.betas) == 2):
            self._refuse("betas", self.betas, "two numbers, as Adam takes them, e.g. (0.5, 0.999)")
        for beta in self.betas:
            if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0 <= beta < 1:
                self._refuse("betas", self.betas, "two numbers in [0, 1), e.g. (0.5, 0.999)")
        if self.handover not in HANDOVERS:
            near = difflib.get_close_matches(str(self.handover), HANDOVERS, n=1)
            known = ", ".join(map(repr, HANDOVERS))
            self._refuse(
                "handover",
                self.handover,
                f"one of {known}" + (f"; did you mean {near[0]!r}?" if near else "") + " For a loss of your own give"
                " adapter=coopinit_plugin.Adapter(d_loss=lambda f_real, f_fake: ...)",
            )
        for name in ("compile",):
            if not isinstance(getattr(self, name), bool):
                self._refuse(name, getattr(self, name), "True or False")

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

    def _whole(self, name: str, value: Any, *, least: int, otherwise: str = "") -> None:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self._refuse(name, value, f"{otherwise}a whole number of at least {least}")

    def _number(
        self, name: str, value: Any, *, least: float | None = None, most: float = math.inf, otherwise: str = ""
    ) -> None:
        kind = f"{otherwise}a finite number " + ("above 0" if least is None else f"of at least {least}")
        if most < math.inf:
            kind += f" and at most {most}"
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            self._refuse(name, value, kind)
        if value > most or (value <= 0 if least is None else value < least):
            self._refuse(name, value, kind)

    @staticmethod
    def _refuse(name: str, value: Any, expected: str) -> None:
        raise CoopInitError(f"WarmStartConfig: {name}={value!r} was given, but {name} must be {expected}.")
