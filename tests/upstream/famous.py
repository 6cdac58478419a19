"""Images from noise: the codebases that a preset serves."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.functional import softplus

from coopinit_plugin import presets
from tests.upstream.entry import (
    N,
    Upstream,
    batches,
    definitions,
    hinge,
    importing,
    itself,
    labelled,
    module,
    noise_and_labels,
    normal,
    spread,
    with_labels,
)


def own(preset: Any) -> dict[str, Any]:
    """What a preset sets: one line for the user."""
    return {"preset": preset}


def rosinality(folder: Path) -> Any:
    with importing(folder, ("op",)):
        made = importlib.import_module("model")
    ops = definitions(folder / "op/upfirdn2d.py")
    made.upfirdn2d = lambda x, kernel, up=1, down=1, pad=(0, 0): ops["upfirdn2d_native"](
        x, kernel, up, up, down, down, pad[0], pad[1], pad[0], pad[1]
    )
    made.FusedLeakyReLU = definitions(folder / "op/fused_act.py")["FusedLeakyReLU"]
    made.fused_leaky_relu = definitions(folder / "op/fused_act.py")["fused_leaky_relu"]
    made.conv2d_gradfix = torch.nn.functional
    return (
        made.Generator(8, 32, 1, channel_multiplier=1),
        made.Discriminator(8, channel_multiplier=1),
        batches(3, 8, 8, n=4),
    )


def ada(c_dim: int) -> Any:
    def make(folder: Path) -> Any:
        with importing(folder, ("requests",)):
            made = importlib.import_module("training.networks")
            both = {"c_dim": c_dim, "img_resolution": 16, "img_channels": 3}
            narrow = {"channel_base": 256, "channel_max": 16}
            G = made.Generator(z_dim=32, w_dim=32, mapping_kwargs={"num_layers": 2}, synthesis_kwargs=narrow, **both)
            D = made.Discriminator(**narrow, **both)
        labels = torch.eye(c_dim)[torch.arange(N) % c_dim] if c_dim else torch.zeros(N, 0)
        loader = [(torch.randint(0, 256, (N, 3, 16, 16), dtype=torch.uint8), labels) for _ in range(2)]
        return G.requires_grad_(False), D.requires_grad_(False), loader

    return make


def ada_latent(n: int, batch: Any) -> Any:
    return torch.randn(n, 32), batch[1]


def bytes_scaled(batch: Any) -> Any:
    return batch[0].to(torch.float32) / 127.5 - 1


def r3gan(folder: Path) -> Any:
    with importing(folder, ("requests",)):
        made = importlib.import_module("training.networks")
        for name in ("Networks", "Resamplers", "FusedOperators"):
            part = importlib.import_module(f"R3GAN.{name}")
            for kind in [key for key in vars(part) if key.endswith("CUDA")]:
                for user in (part, importlib.import_module("R3GAN.Networks")):
                    setattr(user, kind.removesuffix("CUDA"), getattr(part, kind.removesuffix("CUDA") + "Reference"))
        stages = {"WidthPerStage": [16, 16], "CardinalityPerStage": [4, 4], "BlocksPerStage": [1, 1]}
        stages |= {"ExpansionFactor": 2, "FP16Stages": []}
        G = made.Generator(NoiseDimension=8, c_dim=0, img_resolution=8, **stages)
        D = made.Discriminator(c_dim=0, img_resolution=8, **stages)
    loader = [(torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8), torch.zeros(N, 0)) for _ in range(2)]
    return G, D, loader


def mimicry(kind: str, conditional: bool = False) -> Any:
    def make(folder: Path) -> Any:
        family, name = kind.split(".")
        made = module(
            folder,
            f"torch_mimicry.nets.{family}.{family}_32",
            ("tensorboard", "torch.utils.tensorboard", "requests", "skimage", "tensorflow"),
        )
        more = {"num_classes": 10} if conditional else {}
        G = getattr(made, f"{name}Generator32")(nz=16, ngf=16, **more)
        return G, getattr(made, f"{name}Discriminator32")(ndf=16, **more), labelled(3, 32, 32)

    return make


def biggan(folder: Path) -> Any:
    made = module(folder, "BigGAN")
    both = {"resolution": 32, "n_classes": 10, "G_shared": True, "skip_init": False}
    G = made.Generator(G_ch=8, dim_z=20, shared_dim=16, G_attn="0", **both)
    D = made.Discriminator(D_ch=8, D_attn="0", resolution=32, n_classes=10)
    return G, D, labelled(3, 32, 32)


def lucidrains(folder: Path) -> Any:
    made = definitions(folder / "stylegan2_pytorch/stylegan2_pytorch.py", filter2d=lambda x, f, normalized: x)
    GAN = SimpleNamespace(S=made["StyleVectorizer"](32, 2), G=made["Generator"](32, 32, network_capacity=2))
    D = made["Discriminator"](32, network_capacity=2)
    return presets.LucidrainsGenerator(GAN), D, [(x + 1) / 2 for x in batches(3, 32, 32)]


def lightweight(folder: Path) -> Any:
    path = folder / "lightweight_gan/lightweight_gan.py"
    made = definitions(path, filter2d=lambda x, f, normalized: x, norm_class=nn.BatchNorm2d, Blur=nn.Identity)
    both = {"image_size": 64, "fmap_max": 16, "attn_res_layers": []}
    return (
        made["Generator"](latent_dim=32, **both),
        made["Discriminator"](**both),
        [(x + 1) / 2 for x in batches(3, 64, 64, n=2)],
    )


def lucid_score(D: Any, x: Any, batch: Any) -> Any:
    large, small, _ = D(x)
    return large.flatten(1).mean(1) + small.flatten(1).mean(1)


def low(loss: Any) -> Any:
    return lambda real, fake: loss(-real, -fake)


ADA = ("NVlabs/stylegan2-ada-pytorch", "d72cc7d041b42ec8e806021a205ed9349f87c6a4", "NVIDIA, non-commercial")
MIMICRY = ("kwotsin/mimicry", "a7fda06c4aff1e6af8dc4c4a35ed6636e434c766", "MIT")


def relativistic(real: Any, fake: Any) -> Any:
    return softplus(fake - real).mean()


ENTRIES = [
    Upstream(
        "rosinality/stylegan2-pytorch", "bef283a1c24087da704d16c30abc8e36e63efa0e", "MIT", "StyleGAN2", rosinality,
        lambda n, batch: [torch.randn(n, 32)], lambda G, z, batch: G(z)[0], itself,
        adapter=own(presets.rosinality_stylegan2(32)),
    ),
    Upstream(*ADA, "no labels", ada(0), ada_latent, spread, bytes_scaled, with_labels, adapter=own(presets.stylegan2_ada())),
    Upstream(*ADA, "labels", ada(3), ada_latent, spread, bytes_scaled, with_labels, adapter=own(presets.stylegan2_ada())),
    Upstream(
        "brownvc/R3GAN", "19a7ddf463fbac2bd39b4c1c73d63f1c441c7403", "", "no labels", r3gan,
        lambda n, batch: (torch.randn(n, 8), batch[1]), spread, bytes_scaled, with_labels, relativistic,
        adapter={"real": bytes_scaled},
    ),
    Upstream(*MIMICRY, "SNGAN", mimicry("sngan.SNGAN"), normal(16), d_loss=hinge),
    Upstream(
        *MIMICRY, "SSGAN, tuple of D", mimicry("ssgan.SSGAN"), normal(16), logit=lambda D, x, batch: D(x)[0],
        d_loss=hinge,
    ),
    Upstream(
        *MIMICRY, "cGAN with projection", mimicry("cgan_pd.CGANPD", True), noise_and_labels(16), spread,
        logit=with_labels, d_loss=hinge,
    ),
    Upstream(
        "ajbrock/BigGAN-PyTorch", "98459431a5d618d644d54cd1e9fceb1e5045648d", "MIT", "G_shared", biggan,
        noise_and_labels(20), lambda G, z, batch: G(z[0], G.shared(z[1])), logit=with_labels, d_loss=hinge,
        adapter=own(presets.biggan(20)),
    ),
    Upstream(
        "lucidrains/stylegan2-pytorch", "ce7f830bc10d037cddc75d6166904baf07945cf6", "MIT", "S and G as one", lucidrains,
        lambda n, batch: (torch.randn(n, 32), torch.rand(n, 32, 32, 1)), spread, itself, lambda D, x, batch: D(x)[0],
        low(hinge), False, adapter=own(presets.lucidrains_stylegan2(32)),
    ),
    Upstream(
        "lucidrains/lightweight-gan", "efbec4570b7cb715e05058eccc518dc1a5753523", "MIT", "64²", lightweight, normal(32),
        real=itself, logit=lucid_score, d_loss=low(hinge), high=False, adapter={"score": lambda D, x, z, batch: lucid_score(D, x, batch), "real_is_high": False},
    ),
]  # fmt: skip
