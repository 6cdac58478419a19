"""What one would do instead of a cooperative warm-up: G pretrained by itself, then the adversarial loop from there."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.functional import mse_loss

from examples.study.objectives import descend

HELD = 4096  # samples that have a latent of their own in GLO
RATE = 1e-3  # of G
LATENT_RATE = 1e-2

Draw = Callable[[int], Tensor]
GoOn = Callable[[], bool]


def as_vae(G: nn.Module, latent: int, draw: Draw, batch: int, go_on: GoOn) -> None:
    """G as the decoder of a VAE (Kingma & Welling 2014) of unit variance, beside a small convolutional encoder."""
    channels = draw(1).shape[1]
    encoder = nn.Sequential(
        *(nn.Conv2d(channels, 32, 4, 2, 1), nn.BatchNorm2d(32), nn.ReLU()),
        *(nn.Conv2d(32, 64, 4, 2, 1), nn.BatchNorm2d(64), nn.ReLU()),
        *(nn.Flatten(), nn.LazyLinear(2 * latent)),
    )
    encoder(draw(2))
    adam = torch.optim.Adam([*G.parameters(), *encoder.parameters()], RATE)
    while go_on():
        x = draw(batch)
        mean, log_variance = encoder(x).chunk(2, 1)
        z = mean + (log_variance / 2).exp() * torch.randn_like(mean)
        kl = (mean.square() + log_variance.exp() - log_variance - 1).sum() / 2
        descend(adam, (mse_loss(G(z), x, reduction="sum") / 2 + kl) / batch)


def by_glo(G: nn.Module, latent: int, draw: Draw, batch: int, go_on: GoOn) -> None:
    """G by latent optimisation (GLO, Bojanowski et al. 2018): each of 4096 samples learns its latent on a sphere."""
    held = draw(HELD)
    latents = nn.Parameter(torch.randn(HELD, latent))
    adam = torch.optim.Adam([{"params": G.parameters(), "lr": RATE}, {"params": [latents], "lr": LATENT_RATE}])
    while go_on():
        chosen = torch.randint(HELD, (batch,))
        z = nn.functional.normalize(latents[chosen]) * latent**0.5  # where N(0, I) lies in many dimensions
        descend(adam, mse_loss(G(z), held[chosen]))


PRETRAININGS = {"vae": as_vae, "glo": by_glo}
