"""A small StyleGAN2 (Karras et al. 2020) in the form its users know: a list of latents in, (images, latents) out."""

from __future__ import annotations

import math
import random

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class EqualLinear(nn.Module):
    """Linear layer with equalised learning rate; an activation makes up for its own loss of variance."""

    def __init__(self, in_dim: int, out_dim: int, bias: float = 0.0, lr_mul: float = 1.0, activate: bool = False):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_dim,), bias))
        self.scale = lr_mul / math.sqrt(in_dim)
        self.lr_mul = lr_mul
        self.activate = activate

    def forward(self, x: Tensor) -> Tensor:
        out = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return F.leaky_relu(out, 0.2) * math.sqrt(2) if self.activate else out


class EqualConv2d(nn.Module):
    """Convolution with equalised learning rate."""

    def __init__(self, in_channel: int, out_channel: int, kernel: int, stride: int = 1, activate: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channel, in_channel, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channel))
        self.scale = 1 / math.sqrt(in_channel * kernel**2)
        self.stride, self.padding, self.activate = stride, kernel // 2, activate

    def forward(self, x: Tensor) -> Tensor:
        out = F.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding)
        return F.leaky_relu(out, 0.2) * math.sqrt(2) if self.activate else out


class ModulatedConv2d(nn.Module):
    """The style scales the input channels; the output is divided by the norm that the weights then have."""

    def __init__(self, in_channel: int, out_channel: int, kernel: int, style_dim: int, demodulate: bool = True):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channel, in_channel, kernel, kernel))
        self.scale = 1 / math.sqrt(in_channel * kernel**2)
        self.modulation = EqualLinear(style_dim, in_channel, bias=1.0)
        self.demodulate = demodulate

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        style, weight = self.modulation(style), self.weight * self.scale
        out = F.conv2d(x * style[:, :, None, None], weight, padding=weight.shape[-1] // 2)
        if self.demodulate:
            norm = style.square() @ weight.square().sum((2, 3)).T
            out = out * torch.rsqrt(norm + 1e-8)[:, :, None, None]
        return out


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias, activation; doubles the side where asked to."""

    def __init__(self, in_channel: int, out_channel: int, style_dim: int, upsample: bool = False):
        super().__init__()
        self.conv = ModulatedConv2d(in_channel, out_channel, 3, style_dim)
        self.noise_weight = nn.Parameter(torch.zeros(1))
        self.bias = nn.Parameter(torch.zeros(1, out_channel, 1, 1))
        self.upsample = upsample

    def forward(self, x: Tensor, style: Tensor, noise: Tensor | None) -> Tensor:
        out = self.conv(doubled(x) if self.upsample else x, style)
        if noise is None:
            noise = torch.randn(len(out), 1, *out.shape[2:], device=out.device)
        return F.leaky_relu(out + self.noise_weight * noise + self.bias, 0.2) * math.sqrt(2)


class ToRGB(nn.Module):
    def __init__(self, in_channel: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channel, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Tensor, style: Tensor, skip: Tensor | None = None) -> Tensor:
        out = self.conv(x, style) + self.bias
        return out if skip is None else out + doubled(skip)


class Generator(nn.Module):
    """``G([z])`` or ``G([z1, z2])`` (styles mixed) to (images, latents); latents only with `return_latents`."""

    def __init__(self, size: int, style_dim: int = 64, n_mlp: int = 4, channels: int = 32) -> None:
        super().__init__()
        self.size, self.style_dim = size, style_dim
        self.style = nn.Sequential(
            *(EqualLinear(style_dim, style_dim, lr_mul=0.01, activate=True) for _ in range(n_mlp))
        )
        log_size = int(math.log2(size))
        self.n_latent = 2 * log_size - 2
        self.input = nn.Parameter(torch.randn(1, channels, 4, 4))
        self.conv1 = StyledConv(channels, channels, style_dim)
        self.to_rgb1 = ToRGB(channels, style_dim)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        for _ in range(3, log_size + 1):
            self.convs += [StyledConv(channels, channels, style_dim, upsample=True)]
            self.convs += [StyledConv(channels, channels, style_dim)]
            self.to_rgbs += [ToRGB(channels, style_dim)]
        for layer in range(self.n_latent - 1):
            side = 2 ** ((layer + 5) // 2)
            self.register_buffer(f"noise_{layer}", torch.randn(1, 1, side, side))

    def forward(
        self, styles: list[Tensor], return_latents: bool = False, randomize_noise: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        styles = [self.style(s * torch.rsqrt(s.square().mean(1, keepdim=True) + 1e-8)) for s in styles]
        if len(styles) == 1:
            latent = styles[0][:, None].repeat(1, self.n_latent, 1)
        else:
            first = random.randint(1, self.n_latent - 1)
            latent = torch.cat(
                [styles[0][:, None].repeat(1, first, 1), styles[1][:, None].repeat(1, self.n_latent - first, 1)], 1
            )
        noise = [None if randomize_noise else getattr(self, f"noise_{layer}") for layer in range(self.n_latent - 1)]

        out = self.conv1(self.input.repeat(len(latent), 1, 1, 1), latent[:, 0], noise[0])
        image = self.to_rgb1(out, latent[:, 1])
        for index, to_rgb in enumerate(self.to_rgbs):
            i = 2 * index + 1
            out = self.convs[i - 1](out, latent[:, i], noise[i])
            out = self.convs[i](out, latent[:, i + 1], noise[i + 1])
            image = to_rgb(out, latent[:, i + 2], image)
        return image, latent if return_latents else None


class ResBlock(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = EqualConv2d(channels, channels, 3)
        self.conv2 = EqualConv2d(channels, channels, 3, stride=2)
        self.skip = EqualConv2d(channels, channels, 1, activate=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.conv2(self.conv1(x)) + self.skip(F.avg_pool2d(x, 2))) / math.sqrt(2)


class Discriminator(nn.Module):
    """Images to logits (N, 1); each group of up to four also sees how much its samples differ."""

    def __init__(self, size: int, channels: int = 32) -> None:
        super().__init__()
        blocks = [ResBlock(channels) for _ in range(int(math.log2(size)) - 2)]
        self.convs = nn.Sequential(EqualConv2d(3, channels, 1), *blocks)
        self.final_conv = EqualConv2d(channels + 1, channels, 3)
        self.final_linear = nn.Sequential(EqualLinear(channels * 16, channels, activate=True), EqualLinear(channels, 1))

    def forward(self, x: Tensor) -> Tensor:
        out = self.convs(x)
        group = min(len(out), 4)
        stddev = out.reshape(group, -1, *out.shape[1:])
        stddev = torch.sqrt(stddev.var(0, unbiased=False) + 1e-8).mean((1, 2, 3), keepdim=True)
        stddev = stddev.repeat(group, 1, *out.shape[2:])
        out = self.final_conv(torch.cat([out, stddev], 1))
        return self.final_linear(out.flatten(1))


def doubled(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
