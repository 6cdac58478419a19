"""What can be known before the first iteration is said there; the line that a message suggests works when followed."""

from __future__ import annotations

import copy
import re

import numpy
import pytest
import torch
from networks import images, mlp_pair, short, vectors
from snapshot import Snapshot
from torch import nn
from torch.nn.functional import logsigmoid

from coopinit_plugin import Adapter, CoopInitError, inspect, warm_start


def refused(G: nn.Module, D: nn.Module, loader: list, *words: str, **given) -> str:
    """The message, which holds the words; nothing ran, and the networks are as they were."""
    before, steps = Snapshot(G, D), []
    with pytest.raises(CoopInitError) as caught:
        warm_start(G, D, loader, **{"config": short(), "progress": False, "callback": steps.append, **given})
    before.assert_unchanged()
    assert not steps
    for word in words:
        assert word in str(caught.value), f"{word!r} is not in: {caught.value}"
    return str(caught.value)


def followed(message: str) -> Adapter:
    """The first adapter that a message suggests."""
    suggested = re.search(r"adapter=coopinit_plugin\.(Adapter\(.*?\))(?: or Adapter|$)", message, re.DOTALL)
    assert suggested is not None
    return eval(suggested[1], {"Adapter": Adapter, "torch": torch})


# --- what the loop does after a step of D


def test_a_step_that_closes_over_the_users_d():
    G, D = mlp_pair()

    def clip(_: nn.Module) -> None:
        for parameter in D.parameters():
            parameter.data.clamp_(-0.01, 0.01)

    words = ("they reach your own D.0.weight", "a hook of the Adapter, holds the original")
    refused(G, D, vectors(), *words, adapter=Adapter(after_d_step=clip))


STEPS = {
    "in place on a leaf": (lambda D: [p.clamp_(-1, 1) for p in D.parameters()], "RuntimeError: a leaf Variable"),
    "of another class": (lambda D: D.clip(), "'Sequential' object has no attribute 'clip'"),
    "without arguments": (lambda: None, "takes 0 positional arguments but 1 was given"),
}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_fails(name):
    step, said = STEPS[name]
    example = "It is called as after_d_step(D), e.g. Adapter(after_d_step=lambda D: [p.data.clamp_(-0.01, 0.01)"
    refused(*mlp_pair(), vectors(), "Adapter.after_d_step failed", said, example, adapter=Adapter(after_d_step=step))


# --- masks, the callback


MASKS = {
    "another width": torch.ones(3),
    "more dimensions": torch.ones(4, 32, 2),
    "numpy": numpy.ones((1, 2), "float32"),
    "a list": [1, 0],
    "a function that fails": lambda x: x.mask,
}


@pytest.mark.parametrize("name", MASKS)
def test_a_mask_that_does_not_fit(name):
    said = refused(
        *mlp_pair(),
        vectors(),
        "Adapter.mask does not fit the data x, (32, 2) float32:",
        adapter=Adapter(mask=MASKS[name]),
    )
    warm_start(*mlp_pair(), vectors(), config=short(), progress=False, adapter=followed(said))


def test_a_mask_that_lets_nothing_move():
    refused(*mlp_pair(), vectors(), "Adapter.mask is 0 everywhere", adapter=Adapter(mask=torch.zeros(1, 2)))


def test_a_folder_that_is_none():
    refused(*mlp_pair(), vectors(), "output_dir is a int; expected a folder, e.g. ", output_dir=3)


def test_a_callback_that_is_no_function():
    with pytest.raises(CoopInitError, match="callback is a int; expected a function"):
        warm_start(*mlp_pair(), vectors(), callback=3)


# --- tensors that cannot be written or compared


def test_averages_that_cannot_be_written():
    G, D = mlp_pair()
    folded = copy.deepcopy(G)
    folded[0].weight = nn.Parameter(torch.zeros(1, 1).expand_as(G[0].weight))
    refused(G, D, vectors(), "do not fit ema[0] (Sequential): 0.weight was made by expand()", ema=[folded])
    away = copy.deepcopy(G).to("meta")
    refused(G, D, vectors(), "do not fit ema[0] (Sequential): 0.weight is on the meta device", ema=[away])


def test_a_sparse_buffer_is_refused_and_the_attribute_that_is_suggested_works():
    class Graph(nn.Module):
        def __init__(self, buffer: bool) -> None:
            super().__init__()
            self.net = mlp_pair()[1]
            if buffer:
                self.register_buffer("edges", torch.eye(2).to_sparse())
            else:
                self.edges = torch.eye(2).to_sparse()

        def forward(self, x):
            return self.net(torch.sparse.mm(self.edges, x.T).T)

    with pytest.raises(CoopInitError, match=r"edges is sparse.* to_dense\(\), or a plain attribute"):
        warm_start(mlp_pair()[0], Graph(True), vectors(), config=short(), progress=False)
    warm_start(mlp_pair()[0], Graph(False), vectors(), config=short(), progress=False)


# --- networks of the user's beside G and D


@pytest.mark.parametrize("where", ["real", "latent", "the loader"])
def test_a_network_of_the_users_that_makes_data_or_latents_gets_no_gradient(where):
    G, D = mlp_pair()
    encoder = nn.Linear(2, G[0].in_features if where == "latent" else 2)
    loader, hooks = vectors(), {}
    if where == "the loader":
        loader = [encoder(x) for x in loader]
    elif where == "real":
        hooks = {"real": lambda batch: encoder(batch)}
    else:
        hooks = {"latent": lambda n, device, batch: encoder(batch)}
    result = warm_start(G, D, loader, config=short(), progress=False, adapter=Adapter(**hooks))
    assert result.summary["iterations"] == len(result.history) > 0
    assert encoder.weight.grad is None


# --- lines that are right when followed


SINGLE = {
    "arrays": ([numpy.ones(2, "float32") * i for i in range(16)], "torch.stack([torch.as_tensor(sample) for"),
    "lists of numbers": ([[0.1 * i, 0.2] for i in range(16)], "torch.stack([torch.as_tensor(sample) for"),
    "tuples": ([(torch.rand(2), i) for i in range(16)], "torch.stack([sample[0] for sample in batch])"),
    "dicts": ([{"x": torch.rand(2), "y": 1} for _ in range(16)], "torch.stack([sample['x'] for sample in batch])"),
}


@pytest.mark.parametrize("name", SINGLE)
def test_a_list_of_single_samples(name):
    batch, line = SINGLE[name]
    G, D = mlp_pair()
    found = inspect(G, D, [batch] * 4, adapter=followed(refused(G, D, [batch] * 4, line)))
    assert found.real(batch).shape == (16, 2)


def test_a_list_of_dicts_of_images():
    G = nn.Sequential(nn.Linear(4, 64), nn.Unflatten(1, (1, 8, 8)))
    D = nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
    batch = [{"image": torch.rand(1, 8, 8), "label": 1} for _ in range(16)]
    message = refused(G, D, [batch] * 4, "torch.stack([sample['image'] for sample in batch])")
    assert inspect(G, D, [batch] * 4, adapter=followed(message)).real(batch).shape == (16, 1, 8, 8)


def test_numbers_with_their_labels_are_not_stacked():
    G, D = nn.Sequential(nn.Linear(4, 1)), nn.Sequential(nn.Linear(1, 8), nn.ReLU(), nn.Linear(8, 1))
    batches = [(torch.randn(16), torch.zeros(16).long())] * 4
    message = refused(G, D, batches, "real=lambda batch: batch[0].unsqueeze(1)")
    assert inspect(G, D, batches, adapter=followed(message)).real(batches[0]).shape == (16, 1)


def test_a_single_vector_is_asked_for_in_batches():
    refused(
        *mlp_pair(), [torch.randn(2)] * 16, "Single samples? Make batches of them", "DataLoader(dataset, batch_size=64)"
    )


def test_labels_that_do_not_fit_beside_the_noise_are_not_asked_for():
    G = mlp_pair()[0]  # of three numbers

    class Labelled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.net = nn.Embedding(10, 2), mlp_pair()[1]

        def forward(self, x, labels):
            return self.net(x + self.embed(labels))

    few, many = ([(x, torch.arange(32) % classes) for x in vectors()] for classes in (2, 10))
    joined = "torch.cat([torch.randn(n, 1, device=device), torch.nn.functional.one_hot(batch[1], 2).float()], 1)"
    message = refused(G, Labelled(), few, "joined to its noise", joined)
    for loader, adapter in ((few, followed(message)), (many, None)):
        warm_start(G, Labelled(), loader, config=short(), progress=False, adapter=adapter)


class ByName(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 2)

    def forward(self, *, noise):
        return self.net(noise)


class ByAnyName(ByName):
    def forward(self, **given):
        return self.net(given["z"])


class ByOwnName(ByName):
    def forward(self, *, fuel):
        return self.net(fuel)


def test_noise_by_name_alone():
    D = mlp_pair()[1]
    assert "as argument 'noise'" in str(inspect(ByName(), D, vectors()))
    own = Adapter(latent=lambda n, device, batch: torch.rand(n, 4))
    assert inspect(ByName(), D, vectors(), adapter=own).generate(ByName(), torch.rand(3, 4)).shape == (3, 2)


@pytest.mark.parametrize(("G", "name"), [(ByAnyName(), "z"), (ByOwnName(), "fuel")])
def test_arguments_by_name_alone(G, name):
    D = mlp_pair()[1]
    assert f"as argument {name!r}" in str(inspect(G, D, vectors()))
    warm_start(G, D, vectors(), config=short(), progress=False)


def test_a_line_that_was_tried_is_not_suggested():
    class Parts(ByName):
        def forward(self, z):
            n, parts, width = z.shape
            return self.net(z.reshape(n * parts, width)).reshape(n, parts, 2).mean(1)

    G, D = Parts(), mlp_pair()[1]
    refused(G, D, vectors(), "not enough values to unpack", "torch.randn(n, ..., 4, device=device)")
    own = Adapter(latent=lambda n, device, batch: torch.randn(n, 3, 4, device=device))
    warm_start(G, D, vectors(), config=short(), progress=False, adapter=own)


def test_one_sample_under_batchnorm_in_g():
    G = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    said = "BatchNorm needs more than one sample: give a loader with a larger batch_size"
    assert "latent=" not in refused(G, mlp_pair()[1], [torch.randn(1, 2)] * 4, said)


def test_a_latent_of_another_number_of_samples():
    G, D = mlp_pair()
    own = Adapter(latent=lambda n, device, batch: torch.randn(7, G[0].in_features))
    refused(G, D, vectors(), "G gave (7, 2)", "(7, 2)", "latent=lambda", adapter=own)


class Classes(nn.Module):
    def __init__(self, last: nn.Module) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 2), last)

    def forward(self, x):
        return self.net(x)


def test_two_classes_are_not_averaged():
    from networks import conv_pair

    G, _ = conv_pair()
    size = images()[0][0].numel()
    plain, soft = Classes(nn.Identity()), Classes(nn.Softmax(1))
    for D in (plain, soft):
        D.net[1] = nn.Linear(size, 2)
    refused(G, plain, images(), "several numbers per sample", "Adapter(score=lambda D, x, z, batch: D(x)[:, 0])")
    message = refused(G, soft, images(), "score=lambda D, x, z, batch: torch.logit(D(x)[:, 1], 1e-6)")
    assert ".mean(1)" not in message  # they sum to 1: their mean is the same for all
    warm_start(G, soft, images(), config=short(), progress=False, adapter=followed(message))


def test_a_log_probability_is_a_logit_before_a_sigmoid():
    class Log(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp_pair()[1]

        def forward(self, x):
            return logsigmoid(self.net(x))

    for D in (Log(), nn.Sequential(mlp_pair()[1], nn.LogSigmoid())):
        found = inspect(mlp_pair()[0], D, vectors())
        assert found.ends_in_sigmoid
        x = vectors()[0]
        torch.testing.assert_close(logsigmoid(found.score(D, x, None, None)), D(x))


# --- the two networks


def test_one_module_in_both_places():
    G = mlp_pair()[0]
    refused(G, G, vectors(), "one and the same module; expected two")
