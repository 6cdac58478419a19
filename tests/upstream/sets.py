"""Vectors, tables, point clouds, graphs, volumes."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.nn.functional import one_hot, softmax

from tests.upstream.entry import (
    N,
    Upstream,
    batches,
    definitions,
    importing,
    itself,
    module,
    normal,
    undone,
    wasserstein,
)


def volumes(folder: Path) -> Any:
    made = module(folder / "3D_GAN", "model", ("params",))
    args = SimpleNamespace(z_size=20, cube_len=32, bias=False, leak_value=0.2)
    G, D = made._G(args), made._D(args)
    return G, D, [(torch.rand(2, 32, 32, 32) > 0.5).float() for _ in range(2)]


def points(folder: Path) -> Any:
    with importing(folder):
        made = module(folder, "model.gan_network")
    G = made.Generator(N, [96, 16, 3], [4, 8], 2)
    return G, made.Discriminator(N, [3, 16, 32]), [[x, torch.zeros(N).long()] for x in batches(32, 3)]


def jets(folder: Path) -> Any:
    made = module(folder, "gapt.model")
    both = {"num_particles": 10, "embed_dim": 16, "num_heads": 2, "sab_layers": 1, "use_mask": True}
    G = made.GAPT_G(output_feat_size=3, **both)
    D = made.GAPT_D(input_feat_size=3, **both)

    def batch() -> Any:
        mask = (torch.rand(N, 10, 1) > 0.3).float()
        mask[:, 0] = 1
        return [torch.cat([torch.rand(N, 10, 3) * 2 - 1, mask - 0.5], 2), mask.sum(1) / 10]

    return G, D, [batch() for _ in range(2)]


def molecules(folder: Path) -> Any:
    made = module(folder, "models")
    G = made.Generator([16, 32], 8, 9, 5, 5, 0.0)
    D = made.Discriminator([[16, 8], 16, [16, 8]], 5, 5, 0.0)
    return G, D, [[torch.randint(0, 5, (N, 9, 9)), torch.randint(0, 5, (N, 9))] for _ in range(2)]


def graph(batch: Any) -> Any:
    return one_hot(batch[0], 5).float(), one_hot(batch[1], 5).float()


def ctgan(folder: Path) -> Any:
    given = {"BaseSynthesizer": object, "random_state": lambda f: f}
    made = definitions(folder / "ctgan/synthesizers/ctgan.py", **given)
    columns = [[SimpleNamespace(dim=1, activation_fn="tanh"), SimpleNamespace(dim=4, activation_fn="softmax")]]
    synthesizer = SimpleNamespace(
        _transformer=SimpleNamespace(output_info_list=columns), _gumbel_softmax=made["CTGAN"]._gumbel_softmax
    )
    CTGAN[:] = [lambda data: made["CTGAN"]._apply_activate(synthesizer, data)]
    G, D = made["Generator"](12 + 4, (16,), 5), made["Discriminator"](5 + 4, (16,), pac=4)
    kinds = one_hot(torch.arange(N) % 4, 4).float()
    rows = torch.cat([torch.rand(N, 1) * 2 - 1, kinds], 1)
    return G, D, [[rows, kinds], [rows.flip(0), kinds.flip(0)]]


CTGAN: list[Any] = []  # ``_apply_activate`` of the user's synthesizer, in reach of the hooks


def categories(folder: Path) -> Any:
    with importing(folder):
        G = module(folder, "multi_categorical_gans.methods.general.generator").Generator(10, [3, 4], [16])
        D = module(folder, "multi_categorical_gans.methods.general.discriminator").Discriminator(7, (16, 8))
    rows = [torch.cat([one_hot(torch.randint(0, k, (N,)), k).float() for k in (3, 4)], 1) for _ in range(2)]
    return G, D, rows


def conditioned(n: int, batch: Any) -> Any:
    return torch.cat([torch.randn(n, 12), batch[1]], 1)


ENTRIES = [
    Upstream(
        "rimchang/3DGAN-Pytorch", "edfa290b00d9ef47a56765d5bdabc413268259f7", "", "32³", volumes,
        lambda n, batch: torch.randn(n, 20) * 0.33, real=lambda batch: batch.unsqueeze(1),
        logit=lambda D, x, batch: undone(D(x)),
        adapter={
            "real": lambda batch: batch.unsqueeze(1),
            "latent": lambda n, device, batch: torch.randn(n, 20, device=device) * 0.33,
        },
    ),
    Upstream(
        "seowok/TreeGAN", "63cb8fea1d074b9cf9b178ed6e5728b89ec11095", "MIT", "32 points", points,
        lambda n, batch: [torch.randn(n, 1, 96)], d_loss=wasserstein,
        adapter={"latent": lambda n, device, batch: [torch.randn(n, 1, 96, device=device)]},
    ),
    Upstream(
        "rkansal47/MPGAN", "a1da9a1a53a492f81b48bebc0dc0a3da3f6b2ee0", "MIT", "GAPT, masked particles", jets,
        lambda n, batch: (0.2 * torch.randn(n, 10, 16), batch[1]), lambda G, z, batch: G(*z),
        logit=lambda D, x, batch: undone(D(x, batch[1])),
        adapter={
            "latent": lambda n, device, batch: (0.2 * torch.randn(n, 10, 16, device=device), batch[1]),
            "score": lambda D, x, z, batch: D(x, batch[1]),
            "mask": torch.tensor([1.0, 1.0, 1.0, 0.0]),
        },
    ),
    Upstream(
        "yongqyu/MolGAN-pytorch", "8a22b864c3c9b7118c9317b57442045c524c1d81", "", "graphs", molecules, normal(8),
        lambda G, z, batch: tuple(softmax(part, -1) for part in G(z)), graph,
        lambda D, x, batch: D(x[0], None, x[1])[0], wasserstein,
        adapter={
            "real": graph,
            "generate": lambda G, z: tuple(softmax(part, -1) for part in G(z)),
            "score": lambda D, x, z, batch: D(x[0], None, x[1])[0],
        },
    ),
    Upstream(
        "sdv-dev/CTGAN", "f4fcd21d96e291fb1d6b7a14b83236927560b81e", "BSL-1.1", "condition vector, pac", ctgan, conditioned,
        lambda G, z, batch: CTGAN[0](G(z)), logit=lambda D, x, batch: D(torch.cat([x, batch[1]], 1)), d_loss=wasserstein,
        adapter={
            "real": lambda batch: batch[0],
            "latent": lambda n, device, batch: torch.cat([torch.randn(n, 12, device=device), batch[1]], 1),
            "generate": lambda G, z: CTGAN[0](G(z)),
            "score": lambda D, x, z, batch: D(torch.cat([x, batch[1]], 1)),
        },
    ),
    Upstream(
        "rcamino/multi-categorical-gans", "7234d5dc41f476bb36b00cab13326fcdd5c43fcd", "BSD-3", "Gumbel", categories,
        normal(10), lambda G, z, batch: G(z, training=True, temperature=0.6), itself,
        lambda D, x, batch: undone(D(x)),
        adapter={"generate": lambda G, z: G(z, training=True, temperature=0.6)},
    ),
]  # fmt: skip
