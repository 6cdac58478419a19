"""D's logits fitted to the adversarial loss that follows: scores collected, the map found, the map applied."""

from __future__ import annotations

import logging
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_leaves, tree_unflatten

from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.engine import Engine
from coopinit_plugin.method.energy_mode import likelihood_mode
from coopinit_plugin.method.judges import judges, scores
from coopinit_plugin.method.kept import buffers, frozen, kept, training
from coopinit_plugin.method.langevin import input_gradient
from coopinit_plugin.method.logit_map import Affine, Loss, critic_scale, line_search, unit_scale
from coopinit_plugin.method.output_layers import find_heads
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.result.step_report import check_data

logger = logging.getLogger(__name__)

SAMPLES = 1024  # real ones, and as many generated ones
BATCHES, FEWEST = 32, 128  # in small batches no more than the 32 first, but 128 samples at least
UNKNOWN = (
    "Which adversarial loss follows is not known, so D's logits get standard deviation 1, which suits none best. Say "
    'it by one word, config=WarmStartConfig(handover="logistic") (or "hinge", "least_squares", "wasserstein", '
    '"relativistic"), or give yours, adapter=Adapter(d_loss=lambda f_real, f_fake: ...).'
)
POSITIONS = 8  # of each sample's patch map or time series of scores


def hand_over(pair: Pair, batches: Batches, kind: str, loss: Loss | None, r1: float, run: Engine) -> dict[str, Any]:
    """Scale and shift D's last layer so that the user's D loss is smallest.

    Args:
        pair: G and D after the warm-up; D's last layer changes.
        batches: Real samples.
        kind: The adversarial loss that follows, ``"none"`` or ``"unit"``.
        loss: D's loss ``(f_real, f_fake) -> loss`` on logits, if the kind has one.
        r1: ``WarmStartConfig.r1``.
        run: The engine.

    Returns:
        What was done and how the logits lie now, for the summary.
    """
    samples = judges(pair, batches, run.device)
    x, z, batch = samples[-1]
    real, fake = _scores(pair, batches, run)
    affine, moved = Affine(1.0, 0.0), ""
    if kind != "none":
        with kept(training(pair.D)):
            likelihood_mode(pair.D)
            heads = find_heads(pair.D, lambda: scores(pair, samples))
        heads = heads.without(pair.G.parameters())
        scalable, shiftable = bool(heads.scaled), heads.shifted is not None
        moved = " and ".join(["scale"] * scalable + ["shift"] * shiftable)
        if kind == "wasserstein":
            norms = _gradient_norms(pair, _between(pair, x, z), z, batch)
            affine = critic_scale(real, fake, run.gather(norms).flatten().cpu().double())
        elif loss is None:
            if run.is_main:
                logger.warning(UNKNOWN)
            affine = unit_scale(real, fake)
        else:
            penalty = 0.0
            if r1 and scalable:
                penalty = r1 / 2 * float(run.gather(_gradient_norms(pair, x, z, batch).square()).mean())
            affine = line_search(loss, real, fake, penalty=penalty, scalable=scalable, shiftable=shiftable)
        affine = Affine(affine.scale if scalable else 1.0, affine.shift if shiftable else 0.0)
        heads.apply(affine)
        real, fake = affine.scale * (real + affine.shift), affine.scale * (fake + affine.shift)
        if not moved:
            logger.warning(
                "No layer of D's alone was found that scales or shifts its logits (spectral norm and no bias, or G's "
                "layer, too?): they stay as the warm-up left them, of standard deviation %.2g.",
                float(real.std()),
            )
    return {
        "handover": kind,
        "handover_moved": moved,
        "handover_scale": affine.scale,
        "handover_shift": affine.shift,
        "logit_real_mean": float(real.mean()),
        "logit_real_std": float(real.std(correction=0)),
        "logit_fake_mean": float(fake.mean()),
        "logit_fake_std": float(fake.std(correction=0)),
    }


def _scores(pair: Pair, batches: Batches, run: Engine) -> tuple[Tensor, Tensor]:
    """Logits of up to about a thousand real and as many generated samples, D in training mode as in the loop to come.

    Not averaged over a patch map: the user's loss is taken at each position.
    """
    real: list[Tensor] = []
    fake: list[Tensor] = []
    with torch.no_grad(), kept(training(pair.D), buffers(pair.G, pair.D)):
        pair.D.train()
        found = 0
        while found < FEWEST or (found < SAMPLES and len(real) < BATCHES):
            x, z, batch = pair.draw(next(batches), run.device)
            real.append(_spread_out(pair.logits(x, z, batch)))
            fake.append(_spread_out(pair.logits(pair.generate(z), z, batch)))
            if not torch.isfinite(real[-1]).all():
                check_data(x, "Hand-over")
            found += len(real[-1]) * run.processes
    rows = run.gather(torch.stack([torch.cat(real).flatten(), torch.cat(fake).flatten()])).transpose(0, 1).flatten(1)
    return rows[0].cpu().double(), rows[1].cpu().double()


def _spread_out(f: Tensor) -> Tensor:
    """At most `POSITIONS` scores of each sample, spread evenly over its map."""
    if f.ndim < 2:
        return f.flatten()
    rows = f.flatten(1)
    return rows[:, :: -(-rows.shape[1] // POSITIONS)]


def _between(pair: Pair, x: Any, z: Any) -> Any:
    """Samples half-way between real and generated ones, where a critic's gradient penalty looks."""
    with torch.no_grad(), kept(buffers(pair.G)):
        fake = pair.generate(z)
    real, nest = tree_flatten(x)
    return tree_unflatten([(a + b) / 2 for a, b in zip(real, tree_leaves(fake), strict=True)], nest)


def _gradient_norms(pair: Pair, samples: Any, z: Any, batch: Any) -> Tensor:
    """‖∇f‖ of each sample; of a patch map, that of the sum of its positions, as penalties on gradients are written."""
    leaves, nest = tree_flatten(samples)
    inputs = [leaf.detach().requires_grad_() for leaf in leaves]
    with kept(training(pair.D), frozen(pair.D)):
        likelihood_mode(pair.D)
        gradients, _ = input_gradient(lambda moved: pair.logits(moved, z, batch), inputs, nest)
    return torch.stack([g.flatten(1).norm(dim=1) for g in gradients]).norm(dim=0)
