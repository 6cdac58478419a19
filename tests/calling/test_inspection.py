"""What inspect refuses, and with which words; what its table says; that it changes nothing."""

from __future__ import annotations

import gc
import sys
import weakref
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.functional import one_hot

from coopinit_plugin import Adapter, CoopInitError, infer_sign, inspect

sys.path.insert(0, str(Path(__file__).parents[1]))
from zoo.conditional import EmbeddingD, EmbeddingG, OptionalD, numbered
from zoo.entry import Apply, Module, N, batches, net
from zoo.images import FlatG, image_d, image_g
from zoo.outputs import ScalesD
from zoo.series import LstmG
from zoo.surveyed import DrawsClassesG
from zoo.translation import UNet, pairs, patch_d
from zoo.vectors import GraphG, graphs, vector_pair

torch.set_num_threads(1)
G, D = vector_pair()
X = [torch.randn(N, 2, generator=torch.Generator().manual_seed(0))]


class TwoArguments(nn.Linear):
    def forward(self, a, b):
        return super().forward(a)


class Rounded(nn.Linear):
    def __init__(self):
        super().__init__(4, 3)

    def forward(self, z):
        return super().forward(z).detach()


def refused(*words, G=G, D=D, loader=X, **hooks):
    with pytest.raises(CoopInitError) as error:
        inspect(G, D, loader, adapter=Adapter(**hooks))
    for word in words:
        assert word in str(error.value), str(error.value)


class TestTheData:
    def test_no_tensor(self):
        refused("no tensor was found", "Adapter(real=", loader=[["a", "b"]])

    def test_two_candidates(self):
        refused("Which tensor of the batch is the data?", "batch[0] and batch[1]", "real=", loader=[[X[0], X[0] + 1]])

    def test_two_candidates_in_a_dict(self):
        refused("real=lambda batch: batch['a']", loader=[{"a": X[0], "b": X[0] + 1}])

    @pytest.mark.parametrize("shape", [(1, 1, 2), (3,)])
    def test_other_shape(self, shape):
        refused("does not match the data", "real=lambda batch: ..., generate=", loader=batches(*shape))

    def test_not_finite(self):
        refused("not finite", "nan_to_num", loader=[torch.full((N, 2), torch.nan)])

    def test_constant(self):
        refused("constant", loader=[torch.zeros(N, 2)])

    def test_real_that_fails(self):
        refused("Adapter.real failed", "KeyError", real=lambda batch: {}["image"])

    def test_real_that_gives_no_floats(self):
        refused("Adapter.real returned", "floating-point", real=lambda batch: batch.long())

    def test_one_dimension(self):
        refused(
            "at least two dimensions",
            "unsqueeze(1)",
            loader=[torch.randn(N)],
            real=lambda batch: batch,
            generate=lambda G, z: G(z)[:, 0],
        )


class TestTheGenerator:
    def test_one_domain_of_images(self):
        refused(
            "Its first layer, down Conv2d, takes 3 channels",
            "latent=lambda n, device, batch: ...",
            G=UNet(3, 3),
            D=patch_d(3),
            loader=batches(3, 8, 8),
        )

    def test_two_domains_of_one_shape(self):
        refused(
            "What does G (UNet) take?",
            "batch['A'] or batch['B']?",
            G=UNet(3, 3),
            D=patch_d(3),
            loader=pairs(3, 3),
        )

    def test_a_size_that_only_names_channels(self):
        G = UNet(3, 3)
        G.input_dim, G.latent_dim = 3, 7
        refused("takes 3 channels", "latent=lambda n, device, batch: ...", G=G, D=patch_d(3), loader=batches(3, 8, 8))

    def test_a_segmentation_is_not_taken_for_noise(self):
        loader = [{"label": torch.randint(0, 5, (N, 1, 8, 8)), "image": torch.rand(N, 3, 8, 8)}]
        refused("What does G (UNet) take?", "latent=", G=UNet(5, 3), D=patch_d(3), loader=loader)

    def test_noise_or_vector_of_the_batch(self):
        refused(
            "Does G translate batch[1], or does it start from noise?",
            "latent=lambda n, device, batch: batch[1]",
            loader=[[torch.randn(N, 2), torch.randn(N, 4)]],
        )

    @pytest.mark.parametrize("kind", [DrawsClassesG, Rounded], ids=["draws classes", "rounds"])
    def test_no_gradient(self, kind):
        refused("No gradient reaches any of G's", "G(z, ...)", G=kind(), D=nn.Linear(3, 1), loader=[torch.rand(N, 3)])

    def test_a_network_used_inside_generate_gets_no_gradient(self):
        after = nn.Linear(2, 2)
        assert inspect(G, D, X, adapter=Adapter(generate=lambda G, z: after(G(z))))
        assert after.weight.grad is None

    def test_two_unknown_arguments(self):
        refused("Its forward needs a, b", "latent=", G=TwoArguments(4, 2))

    def test_no_size(self):
        refused("What does G (Biased) take?", "latent=lambda n, device, batch: torch.randn(n, 100", G=Biased())

    def test_latent_that_does_not_fit(self):
        refused("G((8, 9) float32)", "latent=", latent=lambda n, device, batch: torch.randn(n, 9))

    def test_two_samples(self):
        G = net(nn.Linear(4, 4), Apply(lambda h: (h[:, :2], h[:, 2:])))
        refused("Which part of G's output is the sample?", "out[0] and out[1]", "generate=lambda G, z: G(z)[0]", G=G)

    def test_two_labels(self):
        loader = [[x, y, y] for x, y in numbered()]
        refused("Which of these are G's labels", "batch[1]", "batch[2]", G=EmbeddingG(), D=EmbeddingD(), loader=loader)


class Biased(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(2))

    def forward(self, z):
        return z[:, :2] + self.bias


class TestTheDiscriminator:
    def test_joined_condition_of_images(self):
        refused(
            "takes 4 channels",
            "torch.cat([batch['A'], x], 1)",
            G=UNet(1, 3),
            D=patch_d(4),
            loader=pairs(1, 3),
            latent=lambda n, device, batch: batch["A"],
        )

    def test_two_arguments(self):
        refused("Its forward needs a, b", "score=lambda D, x, z, batch: D(x, b=...)", D=TwoArguments(2, 1))

    def test_labels_that_may_or_may_not_be_passed(self):
        refused(
            "D may take labels ('y', optional), but G takes none", "D(x, batch[1])", D=OptionalD(), loader=numbered()
        )

    def test_score_that_fails(self):
        refused("Adapter.score failed", "score(D, x, z, batch)", score=lambda D, x, z, batch: D(x, 1))

    def test_score_that_is_no_tensor(self):
        refused("Adapter.score returned", score=lambda D, x, z, batch: [D(x)])


def scored(function, width=4):
    """A D whose output is a function of (N, width)."""
    return net(nn.Linear(2, width), Apply(function))


class TestTheScore:
    @pytest.mark.parametrize(
        "function",
        [
            lambda h: (h[:, :1], h[:, 1:2]),
            lambda h: (h[:, :1], h[:, 1]),
            lambda h: {"a": h[:, :1], "b": h[:, 1:2]},
            lambda h: {"logits": h[:, :1], "score": h[:, 1:2]},
            lambda h: [h[:, :1].sigmoid(), h[:, 1:2].sigmoid()],
            lambda h: "text",
        ],
        ids=["two heads", "two heads, one flat", "two keys", "two known keys", "list of probabilities", "no tensor"],
    )
    def test_several(self, function):
        refused("Which part of D's output is the score?", "score=lambda D, x, z, batch:", D=scored(function))

    @pytest.mark.parametrize(
        "function",
        [
            lambda h: h,
            lambda h: (h, h[:, :1].mean()),
            lambda h: h[:, :, None, None],
            lambda h: h[:, :, None],
            lambda h: [h[:, :1], h],
        ],
        ids=["classes", "classes first", "classes as a map", "classes as steps", "a list with classes"],
    )
    def test_classes(self, function):
        refused("numbers per sample", "score=lambda D, x, z, batch:", D=scored(function))

    def test_reconstruction(self):
        D = net(nn.Conv2d(1, 1, 3, padding=1))
        refused("a reconstruction?", G=image_g(1), D=D, loader=batches(1, 8, 8))

    def test_reconstruction_of_a_series_in_the_unit_interval(self):
        D = net(nn.Linear(1, 1), nn.Sigmoid())
        refused("a reconstruction?", G=LstmG(1), D=D, loader=[torch.rand(N, 6, 1)])

    def test_not_finite(self):
        refused("logits on the first real batch are not finite", D=scored(lambda h: h[:, :1] / 0))

    def test_probability_of_unknown_make_is_warned_of(self):
        found = inspect(G, scored(lambda h: (h[:, :1].tanh() + 1) / 2), X)
        assert any("torch.logit(D(x), 1e-6)" in warning for warning in found.warnings)

    def test_list_is_warned_of(self):
        found = inspect(FlatG(), ScalesD(False), batches(3, 8, 8))
        assert any("2 scores are summed" in warning for warning in found.warnings)

    def test_given_score_that_is_a_probability_is_seen_through(self):
        D = net(nn.Linear(2, 1), nn.Sigmoid())
        found = inspect(G, D, X, adapter=Adapter(score=lambda D, x, z, batch: D(x)))
        assert torch.equal(found.score(D, X[0], None, None), D[0](X[0]))
        assert found.ends_in_sigmoid

    def test_given_score_of_several_heads(self):
        refused("D gives several numbers per sample", D=scored(lambda h: h[:, :3]), score=lambda D, x, z, batch: D(x))

    def test_error_of_an_autoencoder(self):
        refused("(D(x) - x).abs().flatten(1).mean(1), real_is_high=False)", D=nn.Linear(2, 2))

    def test_no_gradient(self):
        refused("D's score carries no gradient", "score=", D=scored(lambda h: (h[:, :1] > 0).float()))


class TestTheSign:
    def test_assumed_with_a_warning(self):
        found = inspect(G, D, X)
        assert found.real_is_high
        assert any("infer_sign(your_d_loss)" in warning for warning in found.warnings)

    def test_told_by_the_loss(self):
        assert not infer_sign(lambda real, fake: real.mean() - fake.mean())
        found = inspect(G, D, X, adapter=Adapter(d_loss=lambda real, fake: real.mean() - fake.mean()))
        assert not found.real_is_high
        assert not found.warnings


def test_table():
    class Labelled(FlatG):
        pass

    loader = [[torch.rand(N, 3, 8, 8), torch.zeros(N, dtype=torch.long)]]
    text = str(inspect(Labelled(), nn.DataParallel(image_d()), loader))
    for words in (
        "[(8, 3, 8, 8) float32, (8,) int64]",
        "batch[0], has the shape of G's output",
        "of the data; G starts at [",
        "G.z_dim = 4; standard normal assumed",
        "D's score",
        "real is high",
        "Labelled, 771 parameters",
        "BatchNorm2d",
        "8 samples",
        "wrapper of D",
    ):
        assert words in text


def test_ranges_that_do_not_fit():
    G = net(nn.Linear(4, 2), nn.Tanh())
    found = inspect(G, D, [100 * torch.rand(N, 2)])
    assert any("G can never reach them" in warning for warning in found.warnings)
    found = inspect(G, D, [torch.rand(N, 2)])
    assert any("lambda batch: batch * 2 - 1" in warning for warning in found.warnings)


def test_nested_parts_of_one_shape_are_warned_of():
    class Twins(Module):
        def forward(self, z):
            return self.a(z), self.b(z)

    D = net(Apply(lambda x: torch.cat(list(x), 1)), nn.Linear(4, 1))
    found = inspect(Twins(a=nn.Linear(4, 2), b=nn.Linear(4, 2)), D, [(X[0], X[0] + 1)])
    assert any("have one shape" in warning for warning in found.warnings)


def test_one_hot_labels_are_no_data():
    labels = one_hot(torch.arange(N) % 2, 2).float()
    found = inspect(G, D, [[labels, X[0]]])
    assert found.real([labels, X[0]]) is X[0]


def test_an_iterator_is_used_for_one_batch():
    stream = iter([*X, *X, *X])
    inspect(G, D, stream)
    assert len(list(stream)) == 2


@pytest.mark.parametrize("conditional", [False, True], ids=["noise", "labels"])
def test_the_adapter_keeps_no_tensor_of_the_batch_alive(conditional):
    loader = numbered() if conditional else [[torch.rand(N, 2)]]
    nets = (EmbeddingG(), EmbeddingD()) if conditional else (G, D)
    alive = [weakref.ref(tensor) for batch in loader for tensor in batch]
    found = inspect(*nets, loader)
    del loader
    gc.collect()
    assert found.real is not None
    assert not [tensor for tensor in alive if tensor() is not None]


def test_nothing_is_changed_by_a_refusal():
    G, D = image_g(), net(image_d(), Apply(lambda h: {"a": h, "b": h}))
    before = {key: value.clone() for module in (G, D) for key, value in module.state_dict().items()}
    loader, state = batches(3, 8, 8), torch.get_rng_state()
    refused("Which part", G=G, D=D, loader=loader)
    assert torch.equal(torch.get_rng_state(), state)
    after = {key: value for module in (G, D) for key, value in module.state_dict().items()}
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(module.training for module in (*G.modules(), *D.modules()))


def test_graphs_are_found():
    found = inspect(GraphG(), net(Apply(lambda g: g[0].mean(2)), nn.Linear(5, 1)), graphs())
    assert "as G gives them" in str(found)


def test_a_loader_with_persistent_workers_keeps_no_iterator_of_ours():
    data = torch.utils.data.TensorDataset(torch.randn(32, 2))
    loader = torch.utils.data.DataLoader(data, batch_size=8, num_workers=1, persistent_workers=True)
    before = dict(vars(loader))
    inspect(*vector_pair(), loader)
    assert vars(loader) == before
