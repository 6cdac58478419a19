"""Ready adapters for well-known codebases; each is a plain :class:`coopinit_plugin.Adapter` and shows how to write one.

Give one as ``warm_start(G, D, loader, adapter=presets.biggan())``; print ``inspect(G, D, loader, adapter=...)`` to see
the hooks that it leaves to be found. Most codebases need none, such as the DCGAN of pytorch/examples, kwotsin/mimicry,
GAN_stability or the GAN example of Lightning (pass ``model.generator`` and ``model.discriminator``). Others need one:

- taesungp/contrastive-unpaired-translation (CUT, FastCUT): ``presets.cyclegan()``, after ``model.setup``, before
  ``model.parallelize``; the third network, ``netF``, takes no part in the warm-up.
- lucidrains/lightweight-gan, whose D is low on real and scores the image and its small version beside a loss:
  ``Adapter(score=lambda D, x, z, batch: sum(f.flatten(1).mean(1) for f in D(x)[:2]), real_is_high=False)``.

A network of two modules, such as a mapping and a synthesis network, goes into one module, whose parameters are the
originals. Several discriminators likewise: their scores are added, each averaged to one number a sample::

    class Both(torch.nn.Module):
        def __init__(self, S, G):
            super().__init__()
            self.S, self.G = S, G
        def forward(self, z):
            return self.G(self.S(z))

    class Judges(torch.nn.Module):
        def __init__(self, *judges):
            super().__init__()
            self.judges = torch.nn.ModuleList(judges)
        def forward(self, x):
            return sum(D(x).flatten(1).mean(1) for D in self.judges)
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from coopinit_plugin.calling.adapter import Adapter
from coopinit_plugin.method.logit_map import LOSSES


def stylegan2_ada() -> Adapter:
    """NVlabs/stylegan2-ada-pytorch and stylegan3, with labels or without.

    Traps: the dataset yields uint8, scaled in the loop. Call it after D is built and before the copy ``G_ema``, with an
    iterator of the dataset of its own; a resume would overwrite the weights.
    """
    return Adapter(real=lambda batch: batch[0].float() / 127.5 - 1, d_loss=LOSSES["logistic"])


def rosinality_stylegan2(style_dim: int = 512) -> Adapter:
    """rosinality/stylegan2-pytorch.

    Traps: G takes a list of latents, changes it, and returns (image, latents); the loader is endless; ``g_ema`` is made
    from G, so call it before, or pass ``ema=[g_ema]``.
    """
    latent = lambda n, device, batch: [torch.randn(n, style_dim, device=device)]  # noqa: E731
    return Adapter(latent=latent, generate=lambda G, z: G(z)[0], d_loss=LOSSES["logistic"])


class LucidrainsGenerator(torch.nn.Module):
    """``GAN.S`` and ``GAN.G`` of lucidrains/stylegan2-pytorch as the one generator that they are together."""

    def __init__(self, GAN: Any) -> None:
        super().__init__()
        self.S, self.G = GAN.S, GAN.G

    def forward(self, z: Tensor, noise: Tensor) -> Tensor:
        """(N, latent_dim) and noise (N, size, size, 1) to images."""
        return self.G(self.S(z)[:, None].expand(-1, self.G.num_layers, -1), noise)


def lucidrains_stylegan2(latent_dim: int = 512) -> Adapter:
    """lucidrains/stylegan2-pytorch: ``warm_start(LucidrainsGenerator(GAN), GAN.D, loader, adapter=...)``.

    Traps: D is low on real, and returns (score, auxiliary loss); images in [0, 1]; for the averaged copies call
    ``GAN.reset_parameter_averaging`` after it.
    """

    def latent(n: int, device: torch.device, batch: Tensor) -> tuple[Tensor, Tensor]:
        noise = torch.rand(n, batch.shape[-1], batch.shape[-1], 1, device=device)
        return torch.randn(n, latent_dim, device=device), noise

    return Adapter(
        latent=latent,
        score=lambda D, x, z, batch: D(x)[0],
        real_is_high=False,
        d_loss=lambda f_real, f_fake: LOSSES["hinge"](-f_real, -f_fake),
    )


def fastgan(small: int = 128) -> Adapter:
    """odegeasslbc/FastGAN-pytorch: G gives an image and a small one, D sees both.

    Traps: D's second argument is the word "real" or "fake"; on "real" it reconstructs, too, which the score needs not.
    """
    return Adapter(
        real=lambda batch: [batch, interpolate(batch, small)],
        score=lambda D, x, z, batch: D(x, "fake"),
        d_loss=LOSSES["hinge"],
    )


def biggan(dim_z: int = 128) -> Adapter:
    """ajbrock/BigGAN-PyTorch with ``G_shared``.

    Traps: the loop embeds the labels itself; ``G_ema`` is made from G, so pass ``ema=[G_ema]``.
    """
    return Adapter(
        latent=lambda n, device, batch: (torch.randn(n, dim_z, device=device), batch[1]),
        generate=lambda G, z: G(z[0], G.get_submodule("shared")(z[1])),
        score=lambda D, x, z, batch: D(x, batch[1]),
        d_loss=LOSSES["hinge"],
    )


def cyclegan(direction: str = "AtoB") -> Adapter:
    """CycleGAN of junyanz/pytorch-CycleGAN-and-pix2pix, one direction at a time.

    ``netG_A`` with ``netD_A`` is ``"AtoB"``, ``netG_B`` with ``netD_B`` is ``"BtoA"``.
    Traps: the two domains have one shape; names of D's are those of the source.
    """
    source, target = direction.split("to")
    latent = lambda n, device, batch: batch[source]  # noqa: E731
    return Adapter(real=lambda batch: batch[target], latent=latent, d_loss=LOSSES["least_squares"])


def pix2pix(direction: str = "AtoB") -> Adapter:
    """Pix2pix of junyanz/pytorch-CycleGAN-and-pix2pix: D sees source and target joined; only the target is refined."""
    score = lambda D, x, z, batch: D(torch.cat([batch[direction[0]], x], 1))  # noqa: E731
    return replace(cyclegan(direction), score=score, d_loss=LOSSES["logistic"])
