"""Codebases that were read after the first survey: augmenting, growing, translating with a style, several latents."""

from __future__ import annotations

import importlib
import sys
import typing
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from tests.upstream.entry import (
    N,
    Upstream,
    batches,
    definitions,
    hinge,
    importing,
    itself,
    labelled,
    least_squares,
    module,
    noise_and_labels,
    normal,
    spread,
    wasserstein,
    with_labels,
)
from tests.upstream.famous import ada_latent, bytes_scaled, low
from tests.upstream.images import clip

TOOLS = ("torchvision", "torchvision.utils", "matplotlib", "matplotlib.pyplot", "munch", "h5py", "tqdm")


def collections(name: str) -> Any:
    def make(folder: Path) -> Any:
        made = module(folder, f"source.models.{name}")
        return made.Generator32(16), made.Discriminator32(), labelled(3, 32, 32)

    return make


def lynn(folder: Path) -> Any:
    made = module(folder, "module", ("torchlib",))
    both = {"dim": 8, "norm": "batch_norm"}
    return (
        made.ConvGenerator(16, 3, n_upsamplings=3, **both),
        made.ConvDiscriminator(3, n_downsamplings=3, **both),
        batches(3, 32, 32),
    )


def gong(folder: Path) -> Any:
    made = module(folder, "models.sngan_cifar10")
    args = SimpleNamespace(bottom_width=4, gf_dim=16, df_dim=16, latent_dim=16, d_spectral_norm=True)
    return made.Generator(args), made.Discriminator(args), labelled(3, 32, 32)


def zeleni(folder: Path) -> Any:
    made = definitions(folder / "models/wgan_clipping.py")
    return made["Generator"](1), made["Discriminator"](1), labelled(1, 32, 32, n=4)


def progressive(folder: Path) -> Any:
    made = module(folder, "model")
    return made.Generator(512 - 10, 10), made.Discriminator(10), labelled(3, 8, 8, n=4)


def munit(folder: Path) -> Any:
    made = module(folder, "networks")
    gen = {
        "dim": 4,
        "mlp_dim": 8,
        "style_dim": 8,
        "activ": "relu",
        "n_downsample": 1,
        "n_res": 1,
        "pad_type": "reflect",
    }
    dis = {
        "dim": 4,
        "norm": "none",
        "activ": "lrelu",
        "n_layer": 2,
        "gan_type": "lsgan",
        "num_scales": 2,
        "pad_type": "reflect",
    }
    G = nn.ModuleList([made.AdaINGen(3, gen), made.AdaINGen(3, gen)])
    return G, made.MsImageDis(3, dis), [tuple(batches(3, 32, 32)) for _ in range(2)]


def styled(n: int, batch: Any) -> Any:
    return batch[0], torch.randn(n, 8, 1, 1)


def across(G: Any, z: Any, batch: Any = None) -> Any:
    """``x_ab = gen_b.decode(c_a, s_b)``."""
    return G[1].decode(G[0].encode(z[0])[0], z[1])


def both_scales(D: Any, x: Any, batch: Any) -> Any:
    return sum(f.flatten(1).mean(1) for f in D(x))


def basic(folder: Path) -> Any:
    folder = folder / "basicsr/models/archs"
    util = SimpleNamespace(**definitions(folder / "arch_util.py"))
    made = definitions(folder / "srresnet_arch.py", arch_util=util)
    D = definitions(folder / "discriminator_arch.py")["VGGStyleDiscriminator128"](3, 4)
    return (
        made["MSRResNet"](num_feat=8, num_block=1),
        D,
        [{"lq": x[0], "gt": x[1]} for x in zip(batches(3, 32, 32, n=4), batches(3, 128, 128, n=4), strict=True)],
    )


def low_resolution(n: int, batch: Any) -> Any:
    return batch["lq"]


def gansformer(folder: Path) -> Any:
    with importing(folder / "pytorch_version", ("requests", "seaborn", "termcolor", "gdown", *TOOLS)):
        made = importlib.import_module("training.networks")
        narrow = {"channel_base": 256, "channel_max": 16}
        mapping = {"num_layers": 2}
        G = made.Generator(
            16, 0, 16, 3, 16, 3, mapping_kwargs=mapping, synthesis_kwargs={**narrow, "transformer": False}
        )
        D = made.Discriminator(0, 16, 3, **narrow)
    return G, D, [(torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8), torch.zeros(N, 0)) for _ in range(2)]


def gigagan(folder: Path) -> Any:
    stubs = (
        "kornia",
        "kornia.filters",
        "ema_pytorch",
        "numerize",
        "gigagan_pytorch.open_clip",
        "gigagan_pytorch.data",
        "gigagan_pytorch.optimizer",
        *TOOLS,
    )
    plain = ModuleType("beartype")
    plain.beartype = lambda checked: checked
    with importing(folder, stubs):
        sys.modules.update({"beartype": plain, "beartype.typing": typing})
        made = importlib.import_module("gigagan_pytorch.gigagan_pytorch")
        made.filter2d = lambda x, f, normalized: x
        G = made.Generator(
            image_size=32,
            dim_capacity=4,
            dim_max=16,
            unconditional=True,
            num_skip_layers_excite=0,
            style_network=made.StyleNetwork(dim=16, depth=2),
            self_attn_resolutions=(),
            cross_attn_resolutions=(),
        )
        D = made.Discriminator(
            image_size=32,
            dim_capacity=4,
            dim_max=16,
            unconditional=True,
            attn_resolutions=(),
            multiscale_input_resolutions=(16, 8),
            aux_recon_resolutions=(8,),
        )
    return G, D, [(x + 1) / 2 for x in batches(3, 32, 32, n=4)]


def all_sizes(batch: Any) -> Any:
    return [batch, *(interpolate(batch, size, mode="bilinear") for size in (16, 8))]


def all_sizes_of_g(G: Any, z: Any, batch: Any) -> Any:
    image, small = G(noise=z, return_all_rgbs=True)
    return [image, *(next(part for part in small if part.shape[-1] == size) for size in (16, 8))]


def mean_of_scales(D: Any, x: Any, batch: Any) -> Any:
    return D(x[0], x[1:], return_multiscale_outputs=False, calc_aux_loss=False)[0].mean(0)  # (scales, N)


def stargan(folder: Path) -> Any:
    made = module(folder, "core.model", ("core.wing", *TOOLS))
    G = nn.ModuleDict({"generator": made.Generator(32, 8, 16, 0), "mapping_network": made.MappingNetwork(4, 8, 2)})
    loader = [(*batches(3, 32, 32, n=2), torch.randint(0, 2, (2,))) for _ in range(2)]
    return G, made.Discriminator(32, 2, 16), loader


def to_domain(G: Any, z: Any, batch: Any = None) -> Any:
    return G["generator"](z[0], G["mapping_network"](z[1], z[2]))


def singan(folder: Path) -> Any:
    made = module(folder / "code/models", "generator"), module(folder / "code/models", "discriminator")
    G, D = made[0].Generator(8, 2), made[1].Discriminator()
    G.progress(), D.progress()
    return G, D, batches(3, 10, 10, n=1)


def padded(n: int, batch: Any) -> Any:
    """Noise of every scale, with a margin; its own scale factor 4/3 makes 8 and 10 pixels."""
    return [nn.functional.pad(torch.randn(n, 3, size, size), [5, 5, 5, 5]) for size in (8, 10)]


def diffusion(folder: Path) -> Any:
    with importing(folder / "diffusion-stylegan2", ("requests", *TOOLS)):
        made = importlib.import_module("training.networks")
        both = {"c_dim": 0, "img_resolution": 16, "img_channels": 3}
        narrow = {"channel_base": 256, "channel_max": 16}
        G = made.Generator(z_dim=32, w_dim=32, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=narrow, **both)
        D = made.Discriminator(**narrow, **both)
    loader = [(torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8), torch.zeros(N, 0)) for _ in range(2)]
    return G.requires_grad_(False), D.requires_grad_(False), loader


def diffused(D: Any, x: Any, batch: Any) -> Any:
    """As its ``run_D``: noise added, and how much told (its own schedule needs an older numpy)."""
    t = torch.randint(1, 10, (len(x), 1)).float()
    share = (t / 50)[:, :, None, None]
    return D((1 - share).sqrt() * x + 0.05 * share.sqrt() * torch.randn_like(x), batch[1], t)


def unet(folder: Path) -> Any:
    made = module(folder, "BigGAN", (*TOOLS, "utils"))
    both = {"resolution": 128, "n_classes": 10, "skip_init": True, "unconditional": False}
    G = made.Generator(G_ch=2, dim_z=20, hier=False, G_shared=True, shared_dim=16, G_attn="0", **both)
    D = made.Unet_Discriminator(D_ch=2, D_attn="0", **both)
    return G, D, labelled(3, 128, 128, n=4)


def map_and_middle(D: Any, x: Any, batch: Any) -> Any:
    """Its loss has the hinge of both, the map's averaged over its pixels."""
    whole, middle = D(x, batch[1])
    return whole.flatten(1).mean(1) + middle.flatten()


GANS = ("w86763777/pytorch-gan-collections", "860e90bd882eb5737103de55bcf0e977d6952343", "")


ENTRIES = [
    Upstream(*GANS, "SNGAN", collections("sngan"), normal(16), d_loss=hinge),
    Upstream(*GANS, "WGAN-GP", collections("wgangp"), normal(16), d_loss=wasserstein),
    Upstream(
        "LynnHo/DCGAN-LSGAN-WGAN-GP-DRAGAN-Pytorch", "9e757de6f02dc5f3b31e380428787bf2b3137906", "MIT", "LSGAN", lynn,
        normal(16, 1, 1), real=itself, d_loss=least_squares,
    ),
    Upstream("GongXinyuu/sngan.pytorch", "3d92616a55c5ade1152a3d8a16aa7d4dc778d016", "MIT", "CIFAR-10", gong, normal(16), d_loss=hinge),
    Upstream(
        "Zeleni9/pytorch-wgan", "7f5b52d638746c8b2abdd65dc26319f1de3be8cf", "MIT", "weight clipping", zeleni, normal(100, 1, 1),
        d_loss=lambda real, fake: real.mean() - fake.mean(), high=False,
        adapter={"d_loss": lambda f_real, f_fake: f_real.mean() - f_fake.mean(), "after_d_step": clip},
    ),
    Upstream(
        "rosinality/progressive-gan-pytorch", "672f27ef154944284ee6077c856fb98671ae0bea", "MIT", "step 1", progressive,
        noise_and_labels(502), lambda G, z, batch: G(*z, 1, 1.0), logit=lambda D, x, batch: D(x, 1, 1.0)[0], d_loss=wasserstein,
        adapter={
            "latent": lambda n, device, batch: (torch.randn(n, 502, device=device), batch[1]),
            "generate": lambda G, z: G(*z, 1, 1.0), "score": lambda D, x, z, batch: D(x, 1, 1.0)[0],
        },
    ),
    Upstream(
        "NVlabs/MUNIT", "a82e222bc359892bd0f522d7a0f1573f3ec4a485", "CC BY-NC-SA", "content and style", munit, styled, across,
        lambda batch: batch[1], both_scales, least_squares,
        adapter={
            "real": lambda batch: batch[1],
            "latent": lambda n, device, batch: (batch[0], torch.randn(n, 8, 1, 1, device=device)),
            "generate": across,
        },
    ),
    Upstream(
        "xinntao/BasicSR", "d21eac885b6de90a7adef7cc59e937dbdbb200b1", "Apache-2.0", "SRGAN", basic, low_resolution,
        real=lambda batch: batch["gt"], adapter={"latent": lambda n, device, batch: batch["lq"], "real": lambda batch: batch["gt"]},
    ),
    Upstream(
        "dorarad/gansformer", "3a9efa4545be25604b70560b7f491ec3633c14a3", "MIT", "three latents", gansformer,
        lambda n, batch: (torch.randn(n, 3, 16), batch[1]), lambda G, z, batch: G(*z)[0], bytes_scaled, with_labels,
        adapter={"real": bytes_scaled, "latent": lambda n, device, batch: (torch.randn(n, 3, 16, device=device), batch[1])},
    ),
    Upstream(
        "lucidrains/gigagan-pytorch", "0806433f1e8eadbe888162b5c5a5ab625ce4e0a5", "MIT", "no text", gigagan, normal(16),
        all_sizes_of_g, all_sizes, mean_of_scales, low(hinge), False,
        adapter={
            "real": all_sizes, "generate": lambda G, z: all_sizes_of_g(G, z, None),
            "score": lambda D, x, z, batch: mean_of_scales(D, x, batch), "real_is_high": False,
        },
    ),
    Upstream(
        "clovaai/stargan-v2", "875b70a150609e8a678ed8482562e7074cdce7e5", "CC BY-NC", "style from noise", stargan,
        lambda n, batch: (batch[0], torch.randn(n, 4), batch[2]), to_domain, lambda batch: batch[1],
        lambda D, x, batch: D(x, batch[2]),
        adapter={
            "real": lambda batch: batch[1],
            "latent": lambda n, device, batch: (batch[0], torch.randn(n, 4, device=device), batch[2]),
            "generate": to_domain,
            "score": lambda D, x, z, batch: D(x, batch[2]),
        },
    ),
    Upstream(
        "FriedRonaldo/SinGAN", "c50a5a5249f5e85f7b806a37709d787bf20bfaf0", "", "second scale", singan, padded,
        lambda G, z, batch: G(z)[-1], itself, d_loss=wasserstein,
        adapter={"latent": lambda n, device, batch: padded(n, batch), "generate": lambda G, z: G(z)[-1]},
    ),
    Upstream(
        "Zhendong-Wang/Diffusion-GAN", "2ca5e7aa21f07a3ff0e78966e5796c580126c14f", "NVIDIA, non-commercial", "StyleGAN2",
        diffusion, ada_latent, spread, bytes_scaled, diffused,
        adapter={"real": bytes_scaled, "score": lambda D, x, z, batch: diffused(D, x, batch)},
    ),
    Upstream(
        "boschresearch/unetgan", "37adcf0330fd1fe97c88b70784ca1d5d1e5d41d6", "AGPL-3.0", "128²", unet,
        lambda n, batch: (torch.randn(n, 20), batch[1]), lambda G, z, batch: G(z[0], G.shared(z[1])), logit=map_and_middle,
        d_loss=hinge,
        adapter={
            "latent": lambda n, device, batch: (torch.randn(n, 20, device=device), batch[1]),
            "generate": lambda G, z: G(z[0], G.shared(z[1])),
            "score": lambda D, x, z, batch: map_and_middle(D, x, batch),
        },
    ),
]  # fmt: skip
