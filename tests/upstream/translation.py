"""Images from images: paired, unpaired, by attributes, from label maps."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import one_hot

from coopinit_plugin import presets
from tests.upstream.entry import (
    Upstream,
    batches,
    definitions,
    hinge,
    importing,
    least_squares,
    module,
    undone,
    wasserstein,
)


def pairs(size: int = 32, n: int = 8) -> list[dict[str, Any]]:
    paths = [f"{i}.png" for i in range(n)]
    both = zip(batches(3, size, size, n=n), batches(3, size, size, n=n), strict=True)
    return [{"A": a, "B": b, "A_paths": paths, "B_paths": paths} for a, b in both]


def pix2pix(folder: Path) -> Any:
    made = module(folder, "models.networks")
    norm = made.get_norm_layer("batch")
    G = made.init_net(made.UnetGenerator(3, 3, 5, 8, norm, True), "normal", 0.02)
    return G, made.define_D(6, 8, "basic", norm="batch", use_sigmoid=True), pairs()


def cyclegan(folder: Path) -> Any:
    made = module(folder, "models.networks")
    return made.define_G(3, 3, 4, "resnet_6blocks", "instance"), made.define_D(3, 8, "basic", norm="instance"), pairs()


def cut(folder: Path) -> Any:
    made = module(folder, "models.networks")
    G = made.define_G(3, 3, 4, "resnet_4blocks", "instance", False, "xavier", 0.02, False, False, [], None)
    return G, made.define_D(3, 8, "basic", 3, "instance", "xavier", 0.02, False, [], None), pairs()


def huggan_pix2pix(folder: Path) -> Any:
    made = definitions(folder / "huggan/pytorch/pix2pix/modeling_pix2pix.py", HugGANModelHubMixin=object)
    return made["GeneratorUNet"](), made["Discriminator"](), pairs(256, n=2)


def huggan_cyclegan(folder: Path) -> Any:
    made = definitions(folder / "huggan/pytorch/cyclegan/modeling_cyclegan.py", HugGANModelHubMixin=object)
    return made["GeneratorResNet"]((3, 32, 32), 1), made["Discriminator"](3), pairs(32, n=2)


def erik_pix2pix(folder: Path) -> Any:
    made = module(folder / "implementations/pix2pix", "models")
    return made.GeneratorUNet(), made.Discriminator(), [{k: b[k] for k in "AB"} for b in pairs(256, n=2)]


def stargan(folder: Path) -> Any:
    made = module(folder, "model")
    attributes = torch.randint(0, 2, (8, 5)).float()
    G, D = made.Generator(8, 5, 1), made.Discriminator(32, 8, 5, 3)
    return G, D, [[x, attributes] for x in batches(3, 32, 32)]


def permuted(n: int, device: Any, batch: Any) -> Any:
    return batch[0], batch[1][torch.randperm(n)]


OPT = SimpleNamespace(
    ngf=4, ndf=8, crop_size=64, aspect_ratio=1.0, num_upsampling_layers="normal", semantic_nc=6, label_nc=6, output_nc=3,
    norm_G="spectralspadebatch3x3", norm_D="spectralinstance", use_vae=False, contain_dontcare_label=False,
    no_instance=True, no_ganFeat_loss=False, n_layers_D=3, num_D=2, netD_subarch="n_layer",
)  # fmt: skip


def spade(folder: Path) -> Any:
    with importing(folder, ("dill", "dominate", "models.networks.sync_batchnorm")):
        made = importlib.import_module("models.networks.generator").SPADEGenerator(OPT)
        D = importlib.import_module("models.networks.discriminator").MultiscaleDiscriminator(OPT)
    made.init_weights("xavier", 0.02), D.init_weights("xavier", 0.02)
    labels = torch.randint(0, 6, (4, 1, 64, 64))
    return made, D, [{"label": labels, "instance": 0, "image": x, "path": ["a"] * 4} for x in batches(3, 64, 64, n=4)]


def semantics(batch: Any) -> Any:
    """What ``preprocess_input`` of its model makes."""
    return one_hot(batch["label"][:, 0], 6).permute(0, 3, 1, 2).float()


def scales(out: Any) -> Any:
    return sum(part[-1].flatten(1).mean(1) for part in out)


HUGGAN = ("huggingface/community-events", "a2d9115007c7e44b4389e005ea5c6163ae5b0470", "")
FORK = ("Bleuje/pytorch-CycleGAN-and-pix2pix", "20070a7df7c6549a96461970c809405a8acd5c1f", "BSD")

ENTRIES = [
    Upstream(
        *FORK, "pix2pix (junyanz's, a fork)", pix2pix, lambda n, batch: batch["A"], real=lambda batch: batch["B"],
        logit=lambda D, x, batch: undone(D(torch.cat([batch["A"], x], 1))),
        adapter={"preset": presets.pix2pix()},
    ),
    Upstream(
        *FORK, "CycleGAN (junyanz's, a fork)", cyclegan, lambda n, batch: batch["A"], real=lambda batch: batch["B"],
        d_loss=least_squares, adapter={"preset": presets.cyclegan()},
    ),
    Upstream(
        "taesungp/contrastive-unpaired-translation", "b3ac297708dfb6f7589d04662277e53c0d579c27", "BSD", "CUT", cut,
        lambda n, batch: batch["A"], real=lambda batch: batch["B"], d_loss=least_squares,
        adapter={"preset": presets.cyclegan()},
    ),
    Upstream(
        *HUGGAN, "pix2pix", huggan_pix2pix, lambda n, batch: batch["A"], real=lambda batch: batch["B"],
        logit=lambda D, x, batch: D(x, batch["A"]), d_loss=least_squares, adapter={
            "real": lambda batch: batch["B"], "latent": lambda n, device, batch: batch["A"],
            "score": lambda D, x, z, batch: D(x, batch["A"]),
        },
    ),
    Upstream(
        *HUGGAN, "CycleGAN", huggan_cyclegan, lambda n, batch: batch["A"], real=lambda batch: batch["B"],
        d_loss=least_squares, adapter={"preset": presets.cyclegan()},
    ),
    Upstream(
        "eriklindernoren/PyTorch-GAN", "36d3c77e5ff20ebe0aeefd322326a134a279b93e", "MIT", "pix2pix", erik_pix2pix,
        lambda n, batch: batch["B"], real=lambda batch: batch["A"], logit=lambda D, x, batch: D(x, batch["B"]),
        d_loss=least_squares,
        adapter={
            "real": lambda batch: batch["A"],
            "latent": lambda n, device, batch: batch["B"],
            "score": lambda D, x, z, batch: D(x, batch["B"]),
        },
    ),
    Upstream(
        "yunjey/stargan", "94dd002e93a2863d9b987a937b85925b80f7a19f", "MIT", "CelebA", stargan,
        lambda n, batch: permuted(n, None, batch), lambda G, z, batch: G(*z), logit=lambda D, x, batch: D(x)[0],
        d_loss=wasserstein,
        adapter={"real": lambda batch: batch[0], "latent": permuted, "score": lambda D, x, z, batch: D(x)[0]},
    ),
    Upstream(
        "NVlabs/SPADE", "fecacc920c1367a038995c45a39c15f6521ca64f", "CC BY-NC-SA", "two scales", spade,
        lambda n, batch: semantics(batch), real=lambda batch: batch["image"], d_loss=hinge,
        logit=lambda D, x, batch: scales(D(torch.cat([semantics(batch), x], 1))),
        adapter={
            "latent": lambda n, device, batch: semantics(batch),
            "score": lambda D, x, z, batch: sum(s[-1].flatten(1).mean(1) for s in D(torch.cat([z, x], 1))),
        },
    ),
]  # fmt: skip
