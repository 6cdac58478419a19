"""What the user is told of one iteration."""

from dataclasses import dataclass


@dataclass(frozen=True)
class StepReport:
    """Statistics of one iteration, plain numbers.

    Attributes:
        iteration: Counted from 1.
        real: Mean logit of the real batch.
        refined: Mean logit of the refined samples.
        score_std: Mean of the standard deviations of both; the balance looks at (real − refined) / score_std.
        step_size: Drift coefficient a of this iteration's chain, in units in which the data have σ = 1.
        langevin_steps: Steps K of the chain.
        displacement: RMS of x̃_K − G(z), in σ.
        distance: Newest sliced Wasserstein distance of generated to real samples, in σ; ``None`` before the first.
        seconds: Since the first iteration began.
    """

    iteration: int
    real: float
    refined: float
    score_std: float
    step_size: float
    langevin_steps: int
    displacement: float
    distance: float | None
    seconds: float

    @property
    def gap(self) -> float:
        """The score gap, mean f(x) − mean f(x̃_K)."""
        return self.real - self.refined
