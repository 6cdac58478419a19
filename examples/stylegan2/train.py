"""StyleGAN2's training loop as its users have it, and the three lines that give it a warm start."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import coopinit_plugin  # ← added

LR, R1, PATH = 2e-3, 10.0, 2.0
D_REG_EVERY, G_REG_EVERY = 16, 4
MIXING = 0.9


def sample_data(loader: Iterable) -> Iterator[Tensor]:
    while True:
        for images, _ in loader:
            yield images


def accumulate(averaged: nn.Module, model: nn.Module, decay: float) -> None:
    with torch.no_grad():
        for mean, value in zip(averaged.parameters(), model.parameters(), strict=True):
            mean.lerp_(value, 1 - decay)


def d_logistic_loss(real_pred: Tensor, fake_pred: Tensor) -> Tensor:
    return F.softplus(-real_pred).mean() + F.softplus(fake_pred).mean()


def d_r1_loss(real_pred: Tensor, real_img: Tensor) -> Tensor:
    (grad,) = torch.autograd.grad(real_pred.sum(), real_img, create_graph=True)
    return grad.square().flatten(1).sum(1).mean()


def g_path_regularize(fake_img: Tensor, latents: Tensor, mean_length: Tensor) -> tuple[Tensor, Tensor]:
    noise = torch.randn_like(fake_img) / (fake_img.shape[2] * fake_img.shape[3]) ** 0.5
    (grad,) = torch.autograd.grad((fake_img * noise).sum(), latents, create_graph=True)
    lengths = grad.square().sum(2).mean(1).sqrt()
    mean = mean_length + 0.01 * (lengths.mean() - mean_length)
    return (lengths - mean).square().mean(), mean.detach()


def mixing_noise(batch: int, latent_dim: int) -> list[Tensor]:
    return [torch.randn(batch, latent_dim) for _ in range(2 if random.random() < MIXING else 1)]


def requires_grad(model: nn.Module, flag: bool) -> None:
    for p in model.parameters():
        p.requires_grad = flag


def train(
    generator: nn.Module,
    discriminator: nn.Module,
    g_ema: nn.Module,
    loader: Iterable,
    batch: int,
    keep_going: Callable[[int], bool],
    warm_start: bool = True,
) -> coopinit_plugin.WarmStart | None:
    """Train for as long as `keep_going` says; it is told the number of iterations done, 0 at first."""
    loader = sample_data(loader)
    g_ratio, d_ratio = G_REG_EVERY / (G_REG_EVERY + 1), D_REG_EVERY / (D_REG_EVERY + 1)
    g_optim = torch.optim.Adam(generator.parameters(), lr=LR * g_ratio, betas=(0.0, 0.99**g_ratio))
    d_optim = torch.optim.Adam(discriminator.parameters(), lr=LR * d_ratio, betas=(0.0, 0.99**d_ratio))
    g_ema.load_state_dict(generator.state_dict())

    result = None
    if warm_start:
        config = coopinit_plugin.WarmStartConfig(handover="logistic", r1=R1)  # ← added
        result = coopinit_plugin.warm_start(generator, discriminator, loader, config=config, ema=[g_ema])  # ← added

    mean_path_length, step = torch.tensor(0.0), 0
    while keep_going(step):
        real_img = next(loader)
        requires_grad(generator, False)
        requires_grad(discriminator, True)
        fake_img, _ = generator(mixing_noise(batch, generator.style_dim))
        d_loss = d_logistic_loss(discriminator(real_img), discriminator(fake_img))
        d_optim.zero_grad()
        d_loss.backward()
        d_optim.step()

        if step % D_REG_EVERY == 0:
            real_img.requires_grad_(True)
            r1_loss = d_r1_loss(discriminator(real_img), real_img)
            d_optim.zero_grad()
            (R1 / 2 * r1_loss * D_REG_EVERY).backward()
            d_optim.step()

        requires_grad(generator, True)
        requires_grad(discriminator, False)
        fake_img, _ = generator(mixing_noise(batch, generator.style_dim))
        g_loss = F.softplus(-discriminator(fake_img)).mean()
        g_optim.zero_grad()
        g_loss.backward()
        g_optim.step()

        if step % G_REG_EVERY == 0:
            fake_img, latents = generator(mixing_noise(max(1, batch // 2), generator.style_dim), return_latents=True)
            path_loss, mean_path_length = g_path_regularize(fake_img, latents, mean_path_length)
            g_optim.zero_grad()
            (PATH * G_REG_EVERY * path_loss).backward()
            g_optim.step()

        accumulate(g_ema, generator, 0.5 ** (batch / 10_000))
        step += 1
    return result
