"""Presets on small networks of the same calling convention."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import avg_pool2d

from coopinit_plugin import infer_sign, inspect, presets

sys.path.insert(0, str(Path(__file__).parents[1]))
from zoo.conditional import EmbeddingD, EmbeddingG, numbered
from zoo.entry import Apply, Module, N, batches, net
from zoo.images import FlatG, StyleG, image_d
from zoo.translation import UNet, pairs, patch_d

torch.set_num_threads(1)


class LabelledG(FlatG):
    c_dim = 0

    def forward(self, z, c):
        return super().forward(torch.cat([z, c], 1))


class LabelledD(Module):
    c_dim = 0

    def forward(self, img, c):
        return self.body(img).flatten(1)


class StyleAndNoiseG(FlatG):
    def forward(self, z, noise):
        return super().forward(z) + 0.1 * noise.permute(0, 3, 1, 2)


class SharedG(EmbeddingG):
    def __init__(self):
        super().__init__()
        self.shared = self.embed

    def forward(self, z, y):
        return self.out(self.body(torch.cat([z, y], 1)).relu())


class TwoSizesG(FlatG):
    def forward(self, noise):
        image = super().forward(noise)
        return [image, avg_pool2d(image, 2)]


class TwoSizesD(Module):
    """Asks for a word; reconstructs, too, what is real."""

    def forward(self, imgs, label):
        assert [img.shape[-1] for img in imgs] == [8, 4]
        scores = torch.cat([self.body(imgs[0]).flatten(), self.small(imgs[1]).flatten()])
        return (scores, imgs) if label == "real" else scores


def whole() -> list[list[torch.Tensor]]:
    return [[torch.randint(0, 256, (N, 3, 8, 8), dtype=torch.uint8), torch.zeros(N, 0)]]


CASES = {
    "stylegan2_ada": (presets.stylegan2_ada(), lambda: (LabelledG(), LabelledD(body=image_d()), whole()), True),
    "rosinality_stylegan2": (presets.rosinality_stylegan2(4), lambda: (StyleG(), image_d(), batches(3, 8, 8)), True),
    "lucidrains_stylegan2": (
        presets.lucidrains_stylegan2(4),
        lambda: (StyleAndNoiseG(), net(image_d(), Apply(lambda f: (f.flatten(), f.new_zeros(1)))), batches(3, 8, 8)),
        False,
    ),
    "fastgan": (
        presets.fastgan(4),
        lambda: (TwoSizesG(), TwoSizesD(body=image_d(), small=nn.Conv2d(3, 1, 4)), batches(3, 8, 8)),
        True,
    ),
    "biggan": (presets.biggan(4), lambda: (SharedG(), EmbeddingD(), numbered()), True),
    "pix2pix": (presets.pix2pix("BtoA"), lambda: (UNet(3, 1), patch_d(4), pairs(1, 3)), True),
    "cyclegan": (presets.cyclegan(), lambda: (UNet(3, 3), patch_d(3), pairs(3, 3)), True),
}


@pytest.mark.parametrize("name", CASES)
def test_preset(name):
    adapter, make, high = CASES[name]
    found = inspect(*make(), adapter=adapter)
    assert found.real_is_high is high
    assert infer_sign(adapter.d_loss) is high


@pytest.mark.parametrize("adapter", [presets.pix2pix(), presets.cyclegan()], ids=range(2))
def test_domain_a_is_translated_into_b(adapter):
    batch = pairs(3, 3)[0]
    assert adapter.real(batch) is batch["B"]
    assert adapter.latent(N, None, batch) is batch["A"]


def test_every_preset_has_a_case():
    public = {name for name, value in vars(presets).items() if getattr(value, "__module__", "") == presets.__name__}
    assert {name for name in public if not name.startswith("_")} - {"LucidrainsGenerator"} == set(CASES)


def test_documented_wrappers():
    source = presets.__doc__
    code = "\n".join(line[4:] for line in source.splitlines() if line.startswith("    "))
    scope = {"torch": torch}
    exec(code, scope)
    both = scope["Both"](nn.Linear(4, 4), nn.Linear(4, 2))
    judges = scope["Judges"](nn.Linear(2, 1), nn.Linear(2, 3))
    z, x = torch.randn(N, 4), torch.randn(N, 2)
    assert torch.equal(both(z), both.G(both.S(z)))
    assert torch.allclose(judges(x), judges.judges[0](x)[:, 0] + judges.judges[1](x).mean(1))
    found = inspect(both, judges, [x])
    assert found.latent(N, torch.device("cpu"), x).shape == (N, 4)
    assert torch.allclose(found.score(judges, x, None, x), judges(x))


def test_the_presets_are_there_with_the_package():
    code = "import coopinit_plugin; print(coopinit_plugin.presets.cyclegan())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "latent" in done.stdout, done.stderr
