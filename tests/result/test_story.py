"""The story beside the weights: samples before and after, the picture, the card."""

from __future__ import annotations

import logging
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from networks import Z, conv_pair, hooks, images, mlp_pair, short, vectors
from test_warm_start import bits, result_of
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import coopinit_plugin
from coopinit_plugin import CoopInitError, StepReport, WarmStart, warm_start
from coopinit_plugin.result import warm_start as result
from coopinit_plugin.result.provenance import pack, preview

plt = pytest.importorskip("matplotlib.image")


def warmed(pair=mlp_pair, data=vectors, **given):
    G, D = pair()
    return warm_start(G, D, data(), config=short(), adapter=hooks(**given), progress=False), G, D


# --- samples


@pytest.mark.parametrize(
    ("shape", "kept"),
    [
        ((5, 3, 8, 8), (5, 3, 8, 8)),
        ((5, 1, 8, 6), (5, 1, 8, 6)),
        ((5, 4, 8, 8), (5, 3, 8, 8)),
        ((5, 2, 8, 8), (5, 1, 8, 8)),
        ((5, 12, 8, 8), (5, 3, 8, 8)),
        ((5, 3, 256, 512), (5, 3, 40, 40)),
        ((5, 1, 8, 6, 4), (5, 1, 6, 4)),
        ((5, 1, 64), (5, 64, 1)),
        ((5, 64, 3), (5, 64, 3)),
        ((5, 7), (5, 7)),
        ((5, 1), (5, 1)),
        ((5, 2, 2, 2, 2, 2), (5, 32)),
    ],
)
def test_samples_of_every_shape_become_one_of_three_kinds(shape, kept):
    assert preview(torch.randn(shape)).shape == kept


def test_of_a_nest_the_largest_tensor_is_shown():
    small, large = torch.randn(5, 3, 4, 4), torch.randn(5, 3, 8, 8)
    assert torch.equal(preview([small, {"x": large}]), large)


def test_many_points_and_a_few_images_are_kept():
    points, pictures = torch.randn(700, 2), torch.rand(100, 3, 8, 8)
    assert torch.equal(pack(real=points)["real"], points[:512])
    assert torch.equal(pack(real=pictures)["real"], pictures[:64])


@pytest.mark.parametrize("shape", [(64, 3, 256, 256), (64, 1, 8, 8), (64, 100_000), (600, 2), (64, 50_000, 2)])
def test_samples_take_few_bytes(shape):
    x = preview(torch.randn(shape))
    packed = pack(real=x, before=x, after=x)
    size = sum(value.numel() * value.element_size() for value in packed.values())
    assert 0 < size <= 1_200_000


def test_a_sample_too_large_to_be_kept_is_left_out():
    assert pack(real=torch.randn(4, 200_000)) == {}


def test_a_constant_or_broken_g_is_kept_too():
    assert torch.equal(pack(before=torch.full((3, 100), 2.0))["before"], torch.full((3, 100), 2.0))
    for broken in (float("nan"), float("inf")):
        assert pack(before=torch.full((3, 2), broken))["before"].isfinite().all()
        assert pack(before=torch.full((3, 3, 8, 8), broken))["before"].isfinite().all()


def test_before_and_after_come_from_the_same_latents():
    seen = []

    class Noting(nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, z):
            seen.append(z.detach().clone())
            return self.inner(z)

    G, D = mlp_pair()
    made, _, _ = warmed(lambda: (Noting(G), D))
    fresh = mlp_pair()[0]
    before, after = made.samples["before"], made.samples["after"]
    z = seen[-1]  # G's last forward pass is the one for the picture
    assert torch.allclose(before, fresh(z), atol=1e-6)
    assert torch.allclose(after, G(z), atol=1e-6)
    assert not torch.allclose(before, after)
    assert torch.equal(made.samples["real"], vectors()[0])


def test_looking_on_changes_no_bit(monkeypatch):
    """The whole run once more without the witness."""
    from coopinit_plugin import warmup

    def pair():
        G, D = conv_pair()
        return nn.Sequential(G, nn.Dropout(0.3)), D

    with_witness, *_ = warmed(pair, images)
    monkeypatch.setattr(warmup, "witness", lambda *_: lambda: ({}, {}))
    without, *_ = warmed(pair, images)
    for name in ("generator_state", "discriminator_state"):
        ours, theirs = getattr(with_witness, name), getattr(without, name)
        assert {key: bits(value) for key, value in ours.items()} == {key: bits(value) for key, value in theirs.items()}
    assert [row.gap for row in with_witness.history] == [row.gap for row in without.history]


# --- origin


def test_the_origin_tells_networks_and_data():
    data = torch.cat(images())
    loader = DataLoader(TensorDataset(data), batch_size=16)
    G, D = conv_pair()
    made = warm_start(G, D, loader, config=short(), adapter=hooks(real=lambda batch: batch[0]), progress=False)
    assert made.origin == {
        "generator": f"Sequential, {sum(p.numel() for p in G.parameters()):,} parameters",
        "discriminator": f"Sequential, {sum(p.numel() for p in D.parameters()):,} parameters",
        "latents": f"(16, {Z}) float32",
        "data": f"(16, 2, 4, 4) float32 from {float(data[:16].min()):.3g} to {float(data[:16].max()):.3g}",
        "device": "cpu",
        "versions": f"coopinit_plugin {coopinit_plugin.__version__}, torch {torch.__version__}",
    }


def test_nested_data_and_latents_that_are_no_tensors():
    def pair():
        G, D = mlp_pair()

        class Two(nn.Module):
            def __init__(self):
                super().__init__()
                self.inner = G

            def forward(self, n):
                x = self.inner(torch.randn(n, Z))
                return {"a": x[:, :1], "b": x}

        return Two(), D

    made, *_ = warmed(
        pair,
        real=lambda batch: {"a": batch[:, :1], "b": batch},
        latent=lambda n, device, batch: n,
        score=lambda D, x, z, batch: D(x["b"]),
    )
    assert made.origin["latents"] == "int"
    assert made.origin["data"].startswith("{'a': (32, 1) float32, 'b': (32, 2) float32} from ")
    assert made.samples["before"].shape == (32, 2)


# --- the picture


KINDS = {
    "grey": (40, 1, 8, 8),
    "colour": (40, 3, 8, 8),
    "wide": (40, 3, 4, 64),
    "tall": (40, 1, 64, 2),
    "one image": (1, 3, 8, 8),
    "series": (40, 50, 2),
    "many channels": (40, 50, 12),
    "numbers": (40, 1),
    "points": (40, 2),
    "vectors": (40, 7),
    "long vectors": (40, 100),
    "more vectors than lines": (100, 30),
    "one vector": (1, 7),
}


# Of images, series, points and vectors also without the real ones, behind which the others are drawn.
WITHOUT = [("", "grey"), ("before after", "grey")]
WITHOUT += [("after", kind) for kind in ("grey", "series", "points", "vectors")]


@pytest.mark.pictures
@pytest.mark.parametrize(("sets", "kind"), [*(("real before after", kind) for kind in KINDS), *WITHOUT])
def test_every_kind_of_data_has_a_picture(kind, sets, tmp_path):
    made = result_of(*mlp_pair())
    made.samples = pack(**{name: torch.randn(KINDS[kind]) for name in sets.split()}) if sets else {}
    assert made.plot(tmp_path / "new" / "story.png") == tmp_path / "new" / "story.png"
    picture = plt.imread(tmp_path / "new" / "story.png")
    assert picture.shape == ((610 if sets else 280), 1000, 4)
    assert picture[60:].std() > 0.05  # something is drawn below the heading


@pytest.mark.pictures
@pytest.mark.parametrize("kind", ["grey", "series", "numbers", "points", "vectors"])
def test_constant_samples_are_drawn(kind, tmp_path):
    made = result_of(*mlp_pair())
    zeros, ones = torch.zeros(KINDS[kind]), torch.ones(KINDS[kind])
    made.samples = pack(real=zeros, before=zeros, after=ones)
    constant = plt.imread(made.plot(tmp_path / "constant.png"))
    made.samples = pack(real=zeros, before=zeros, after=zeros)
    alike = plt.imread(made.plot(tmp_path / "alike.png"))
    assert constant.shape == alike.shape == (610, 1000, 4)
    right = np.s_[60:360, 667:]  # where G's samples after the warm-up are
    assert not np.array_equal(constant[right], alike[right])


@pytest.mark.pictures
@pytest.mark.parametrize("value", [0.0, 1e30, math.nan, math.inf, -1.0])
def test_curves_of_any_value_are_drawn(value, tmp_path):
    made = result_of(*mlp_pair())
    made.history = [StepReport(i, value, 0.0, 1.0, value, 2, value, value, 0.1) for i in range(1, 4)]
    picture = plt.imread(made.plot(tmp_path / "strange.png"))
    assert picture.shape == (280, 1000, 4)
    orange = (picture[60:, :, 0] > 0.7) & (picture[60:, :, 1] < 0.5)  # the curves
    assert orange.any() == math.isfinite(value)


@pytest.mark.pictures
def test_samples_that_are_none_are_a_clear_error(tmp_path):
    made = result_of(*mlp_pair())
    for odd in (torch.zeros(2, 2, 2, 2, 2), torch.zeros(3), torch.zeros(0, 3, 2, 2), torch.zeros(4, 2, 8, 8)):
        made.samples = {"after": odd}
        with pytest.raises(CoopInitError, match=r"story\.png cannot be drawn .*It takes matplotlib"):
            made.plot(tmp_path / "story.png")


@pytest.mark.pictures
def test_no_curves_at_all_are_no_error(tmp_path):
    made = result_of(*mlp_pair())
    made.history, made.summary = [], {}
    picture = plt.imread(made.plot(tmp_path / "empty.png"))
    assert picture.shape == (280, 1000, 4)
    assert picture[60:].std() > 0.05  # their titles


@pytest.mark.pictures
def test_the_picture_shows_the_samples_where_they_belong(tmp_path):
    """Real black, before grey, after white, each in its third of the picture."""
    made = result_of(*mlp_pair())
    levels = {"real": 0.0, "before": 0.5, "after": 0.75}
    made.samples = {name: torch.full((25, 3, 8, 8), level) for name, level in levels.items()}
    made.samples["real"][0, 0, 0, 0] = 1.0  # so that black is 0 and white is 1
    made.plot(tmp_path / "story.png")
    picture = plt.imread(tmp_path / "story.png")[..., :3]
    for index, level in enumerate(levels.values()):
        third = picture[150:340, 40 + index * 333 : 250 + index * 333]
        assert np.isclose(np.median(third), level, atol=0.01)


@pytest.mark.pictures
def test_a_picture_is_the_same_every_time_and_in_any_style(tmp_path):
    matplotlib = pytest.importorskip("matplotlib")
    made, *_ = warmed()
    made.plot(tmp_path / "a.png")
    before = matplotlib.get_backend()
    with matplotlib.rc_context({"font.size": 30, "axes.facecolor": "black", "savefig.dpi": 300}):
        made.plot(tmp_path / "b.png")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert matplotlib.get_backend() == before


@pytest.mark.pictures
def test_a_picture_that_cannot_be_written_is_a_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        CoopInitError, match=r"a\.png cannot be drawn \(FileExistsError: .*a path that may be written to"
    ):
        result_of(*mlp_pair()).plot(tmp_path / "file" / "a.png")


@pytest.mark.pictures
def test_without_matplotlib_all_but_the_picture_is_saved(tmp_path, monkeypatch, caplog):
    made, *_ = warmed()
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(CoopInitError, match="pip install matplotlib"):
        made.plot(tmp_path / "story.png")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "coopinit_plugin"):
        made.save_pretrained(tmp_path / "a")
    assert len(caplog.messages) == 1
    assert caplog.messages[0].startswith("Saved without a picture. ")
    assert "warm_start.png" not in os.listdir(tmp_path / "a")
    assert "![" not in (tmp_path / "a" / "README.md").read_text()
    assert WarmStart.from_pretrained(tmp_path / "a").samples.keys() == made.samples.keys()


def test_a_defect_in_the_picture_costs_no_weights(tmp_path, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a defect")

    monkeypatch.setattr(result, "draw", broken)
    made, *_ = warmed()
    made.save_pretrained(tmp_path / "init")
    assert WarmStart.from_pretrained(tmp_path / "init").summary == made.summary


@pytest.mark.pictures
def test_a_folder_plots_what_was_plotted(tmp_path):
    made, *_ = warmed(conv_pair, images)
    made.save_pretrained(tmp_path / "init")
    WarmStart.from_pretrained(tmp_path / "init").plot(tmp_path / "again.png")
    assert (tmp_path / "again.png").read_bytes() == (tmp_path / "init" / "warm_start.png").read_bytes()


# --- the card


def test_the_card_says_what_it_has_to(tmp_path):
    made, *_ = warmed(conv_pair, images)
    made.save_pretrained(tmp_path / "init", model_card_kwargs={"repo_id": "me/digits"})
    text = (tmp_path / "init" / "README.md").read_text()
    for piece in (
        "\n# digits\n",
        'WarmStart.from_pretrained("me/digits")',
        "init.load_into(G, D)",
        f"```text\n{made}\n```",
        "1.weight               3 × 6 × 2 × 2",
        "no impersonation",
        "Not checked: bias",
        "![Real samples, G before and after",
    ):
        assert piece in text, piece
    assert not re.search(r"{{|}}|{%|None|\n\n\n", text)
    assert str(tmp_path) not in text


def test_the_lines_on_the_card_run(tmp_path):
    made, *_ = warmed(conv_pair, images)
    made.save_pretrained(tmp_path / "init", model_card_kwargs={"repo_id": "init"})
    lines = re.search(r"```python\n(.*?)```", (tmp_path / "init" / "README.md").read_text(), re.DOTALL)[1]
    G, D = conv_pair(seed=9)
    before = os.getcwd()
    os.chdir(tmp_path)  # the card names the folder as it lies there
    try:
        exec(lines, {"G": G, "D": D})
    finally:
        os.chdir(before)
    assert bits(G[1].weight) == bits(made.generator_state["1.weight"])


def test_the_users_metadata_go_into_the_cards_head():
    card = ModelCard(str(warmed()[0].generate_model_card(repo_id="me/points", license="mit", language="en")))
    assert (card.data.license, card.data.language) == ("mit", "en")
    assert "pipeline_tag" not in card.data.to_dict()  # no images


def test_a_card_that_is_there_stays(tmp_path):
    made = warmed()[0]
    made.save_pretrained(tmp_path / "init")
    (tmp_path / "init" / "README.md").write_text("# Mine")
    made.save_pretrained(tmp_path / "init")
    assert (tmp_path / "init" / "README.md").read_text() == "# Mine"


def test_the_card_of_a_large_network_stays_short():
    made = result_of(nn.Sequential(*[nn.Linear(2, 2) for _ in range(200)]), mlp_pair()[1])
    text = str(made.generate_model_card())
    assert "and 340 more, in the file" in text
    assert len(text) < 10_000


def test_the_wheel_carries_the_template(tmp_path):
    pytest.importorskip("hatchling")
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=root,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    import zipfile

    names = zipfile.ZipFile(next(tmp_path.glob("*.whl"))).namelist()
    assert {"coopinit_plugin/result/card.md", "coopinit_plugin/py.typed", "coopinit_plugin/__main__.py"} <= set(names)
    entry = next(name for name in names if name.endswith("entry_points.txt"))
    assert "coopinit = coopinit_plugin.cli:main" in zipfile.ZipFile(next(tmp_path.glob("*.whl"))).read(entry).decode()
