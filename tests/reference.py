"""The cooperative warm-up as a textbook would write it: slow, explicit, one sample at a time, ``.backward`` everywhere.

Nothing of the library is used here. Samples are lists of tensors, one entry for each tensor of a sample.
"""

from __future__ import annotations

import copy
import math
import random

import torch
from torch import Tensor, nn


class Reference:
    """G, D, their optimizers and the step size a, taken through one iteration after the other.

    The chains go on: `places` pairs (z, x̃) for each position of a batch, drawn back towards G(z) when they are taken
    up, by the share `pull` of the way, or by the last teaching loss over `loose` if that is less; if the teaching loss
    is less than the square of `distance`, G's to the data, by so much less. One iteration in
    `fresh` begins new ones until the places are full. A G that lies behind its chains takes up to `most` teaching
    steps, one for each `behind` of the last teaching loss.

    The balanced step begins at `first_step_size`: set `a` to it before the first iteration. `steps` is K.
    """

    def __init__(
        self,
        G: nn.Module,
        D: nn.Module,
        *,
        sigmas: list[float],
        steps: int,
        noise: float,
        l2: float,
        fixed: float | None = None,
        lr_generator: float = 5e-4,
        lr_discriminator: float = 1e-3,
        betas: tuple[float, float] = (0.5, 0.999),
        real_is_high: bool = True,
        masks: list[Tensor] | None = None,
        clip: float | None = None,
        randn=torch.randn,
        places: int = 16,
        pull: float = 0.5,
        fresh: int = 8,
        loose: float = 0.2,
        behind: float = 0.1,
        most: int = 4,
    ) -> None:
        self.G, self.D = G, D
        self.sigmas, self.noise, self.l2 = sigmas, noise, l2
        self.steps = steps
        self.balanced, self.capped = fixed is None, 0
        self.a = None if self.balanced else fixed**2 / 2
        self.sign = 1 if real_is_high else -1
        self.masks, self.clip, self.randn = masks, clip, randn
        self.adam_g = torch.optim.Adam([p for p in G.parameters() if p.requires_grad], lr_generator, betas)
        self.adam_d = torch.optim.Adam([p for p in D.parameters() if p.requires_grad], lr_discriminator, betas)

        self.places, self.pull, self.fresh, self.behind, self.most = places, pull, fresh, behind, most
        self.loose = loose
        self.turn, self.taught = 0, [0]  # iterations so far; teaching steps of each
        self.last_teaching = self.distance = self.drift = 0.0
        self.memory: list[tuple[Tensor, list[Tensor]]] = []  # (z, x̃) of whole batches, one a place
        self.random = random.Random(0)

    def f(self, xs: list[Tensor]) -> Tensor:
        """One logit for each sample: a patch map is averaged, the sign turned so that real is high."""
        out = self.D(*[x.clone() for x in xs])
        return self.sign * out.reshape(len(out), -1).mean(dim=1)

    def first_look(self, xs: list[Tensor]) -> None:
        """BatchNorm's running statistics become those of the first batch."""
        for layer in self.D.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.reset_running_stats()
                layer.momentum, kept = None, layer.momentum  # None: a plain average, here of one batch
                layer.kept_momentum = kept
        self.see_real(xs)
        for layer in self.D.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.momentum = layer.kept_momentum
                del layer.kept_momentum

    def see_real(self, xs: list[Tensor]) -> None:
        """BatchNorm's running statistics move towards those of a real batch."""
        self.D.eval()
        for layer in self.D.modules():
            if isinstance(layer, nn.modules.batchnorm._BatchNorm):
                layer.train()
        with torch.no_grad():
            self.f(xs)
        self.D.eval()

    def gradient(self, xs: list[Tensor]) -> list[Tensor]:
        """∇f, of each sample's score to that sample."""
        xs = [x.detach().clone().requires_grad_(True) for x in xs]
        self.f(xs).sum().backward()
        self.D.zero_grad()
        return [torch.zeros_like(x) if x.grad is None else x.grad for x in xs]

    def first_step_size(self, xs: list[Tensor], z: Tensor) -> float:
        """A first drift as long as the noise, on the samples that G(z) is at first. Changes nothing."""
        G, D = copy.deepcopy((self.G, self.D))
        look = Reference(G, D, sigmas=self.sigmas, steps=0, noise=self.noise, l2=0.0, real_is_high=self.sign > 0)
        look.see_real(xs)
        generated = G(z)
        generated = list(generated) if isinstance(generated, tuple) else [generated]
        squares, count = 0.0, 0
        for g, sigma in zip(look.gradient(generated), self.sigmas, strict=True):
            squares += float(((sigma * g) ** 2).sum())
            count += g.numel()
        return (self.noise or 0.06) / math.sqrt(squares / count)

    def langevin(self, xs: list[Tensor]) -> list[Tensor]:
        """x ← x + a·σ²·∇f(x) + ε·σ·N(0, I), K times; the balanced chain moves a sample by 0.25 σ (RMS) K at most.

        `drift` becomes how long a drift of the last step would have been without this limit, on average.
        """
        xs = [x.detach().clone() for x in xs]
        for _ in range(self.steps):
            gradients = self.gradient(xs)
            shorten = torch.ones(len(xs[0]), dtype=xs[0].dtype)
            self.drift = 0.0
            if self.balanced:
                for i in range(len(xs[0])):
                    moves = [self.a * sigma * g[i] for g, sigma in zip(gradients, self.sigmas, strict=True)]
                    rms = torch.cat([move.reshape(-1) for move in moves]).square().mean().sqrt()
                    self.drift += float(rms) / len(xs[0])
                    if rms > 0.25:
                        self.capped += 1
                        shorten[i] = 0.25 / rms
            new = []
            for x, g, sigma in zip(xs, gradients, self.sigmas, strict=True):
                drift = torch.stack([shorten[i] * self.a * sigma**2 * g[i] for i in range(len(x))])
                new.append(x + drift + self.noise * sigma * self.randn(x.shape))
            if self.masks is not None:
                new = [m * moved + (1 - m) * x for m, moved, x in zip(self.masks, new, xs, strict=True)]
            xs = new
        return xs

    def some(self, n: int) -> tuple[list[int], Tensor, list[Tensor]]:
        """One of its own places for each position of a batch: (places, z, x̃)."""
        chosen = self.random.choices(range(len(self.memory)), k=n)
        z = torch.stack([self.memory[place][0][i] for i, place in enumerate(chosen)])
        stood = [
            torch.stack([self.memory[place][1][part][i] for i, place in enumerate(chosen)])
            for part in range(len(self.sigmas))
        ]
        return chosen, z, stood

    def teach(self, generated: list[Tensor], refined: list[Tensor]) -> Tensor:
        """One step of G towards the refined samples; the teaching loss in σ²."""
        self.adam_g.zero_grad()
        squares, count = 0.0, 0
        for ours, target, sigma in zip(generated, refined, self.sigmas, strict=True):
            squares = squares + (((ours - target) / sigma) ** 2).sum()
            count += ours.numel()
        teaching = squares / count
        teaching.backward()
        self.adam_g.step()
        return teaching

    def iterate(self, xs: list[Tensor], z: Tensor) -> dict[str, float]:
        """One cooperative iteration; what it is judged by: `squared` is displacement², `drift` that without the cap."""
        self.see_real(xs)
        filling = len(self.memory) < self.places and self.turn % self.fresh == 0
        self.turn += 1
        if not filling:
            chosen, z, stood = self.some(len(z))
        generated = self.G(z)
        generated = list(generated) if isinstance(generated, tuple) else [generated]
        start = [g.detach() for g in generated]
        if not filling:
            share = min(self.pull, self.last_teaching / self.loose)
            if self.distance:
                share *= min(1.0, self.last_teaching / self.distance**2)
            start = [x + share * (g - x) for x, g in zip(stood, start, strict=True)]
        refined = self.langevin(start)
        if filling:
            self.memory.append((z.clone(), [x.clone() for x in refined]))
        else:
            for i, place in enumerate(chosen):
                for part, x in enumerate(refined):
                    self.memory[place][1][part][i] = x[i]

        teaching = self.teach(generated, refined)

        self.adam_d.zero_grad()
        f_real, f_refined = self.f(xs), self.f(refined)
        likelihood = f_refined.mean() - f_real.mean()
        energy = (f_real**2).mean() + (f_refined**2).mean()
        (likelihood + self.l2 * energy).backward()
        self.adam_d.step()
        if self.clip is not None:
            for parameter in self.D.parameters():
                parameter.data = parameter.data.clamp(-self.clip, self.clip)

        steps = min(self.most, max(1, math.ceil(self.last_teaching / self.behind)))
        self.taught.append(steps)
        for _ in range(steps - 1):
            _, again, targets = self.some(len(z))
            generated = self.G(again)
            self.teach(list(generated) if isinstance(generated, tuple) else [generated], targets)
        self.last_teaching = float(teaching.detach().to(torch.float32))

        found = {
            "real": f_real.mean(),
            "real_variance": ((f_real - f_real.mean()) ** 2).mean(),
            "refined": f_refined.mean(),
            "refined_variance": ((f_refined - f_refined.mean()) ** 2).mean(),
            "squared": teaching,
        }
        # They are read in single precision.
        statistics = {name: float(value.detach().to(torch.float32)) for name, value in found.items()}
        statistics["drift"] = self.drift
        if self.balanced:
            gap = statistics["real"] - statistics["refined"]
            deviation = (math.sqrt(statistics["real_variance"]) + math.sqrt(statistics["refined_variance"])) / 2
            if gap < 0 or self.drift <= 0.25:
                self.a = self.a * math.exp(0.1 * max(-1.0, min(1.0, gap / deviation)))
        return statistics
