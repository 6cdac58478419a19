"""The copy alone computes: functions that hold the user's network are refused before anything ran."""

from __future__ import annotations

import copy
import functools
import types
import weakref

import pytest
import torch
from networks import Z, assert_warmed, mlp_pair, vectors, warm
from snapshot import Snapshot, bits, state_bits
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

from coopinit_plugin import Adapter, CoopInitError, inspect, warm_start

relu = nn.functional.relu


class Layers(nn.Module):
    """Two layers, and a way to call them that each test sets."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(2, 8), nn.Linear(8, 1)

    def plain(self, x):
        return self.b(relu(self.a(x)))

    def forward(self, x):
        return self.run(x)


class Called:
    def __init__(self, function) -> None:
        self.function = function

    def __call__(self, x):
        return self.function(x)


def test_what_deepcopy_gives_the_copy_trains_it():
    torch.manual_seed(1)
    G, D = mlp_pair()[0], Layers()
    D.run = functools.partial(Called(D.plain))
    before = Snapshot(G, D)
    assert_warmed(warm(G, D, vectors()), G, D)
    before.assert_only_values_changed()


class Features(nn.Module):
    """Its score rests partly on what a hook kept."""

    def __init__(self) -> None:
        super().__init__()
        self.net, self.head, self.kept, self.calls = nn.Linear(2, 8), nn.Linear(8, 1), {}, 0
        self.net.register_forward_hook(self.keep)

    def keep(self, module, given, output):
        self.kept["a"] = output
        self.calls += 1

    def forward(self, x):
        return self.head(relu(self.net(x))) + self.kept["a"].mean(1, keepdim=True)


def test_hooks_that_are_methods_keep_the_copys_features():
    G, D = mlp_pair()[0], Features()
    D(torch.zeros(3, 2))
    before = Snapshot(G, D)
    warm(G, D, vectors())
    before.assert_only_values_changed()
    assert (len(D.kept["a"]), D.calls) == (3, 1)


def test_a_lambda_hook_that_keeps_features_is_refused():
    G, D = mlp_pair()[0], Features()
    D.net.register_forward_hook(lambda module, given, output: D.kept.update(a=output))
    D(torch.zeros(3, 2))
    before, kept = Snapshot(G, D), D.kept["a"]
    with pytest.raises(CoopInitError, match=r"reach your own attributes: .*make it a method"):
        warm(G, D, vectors())
    before.assert_unchanged()
    assert D.kept["a"] is kept


HOLDERS = {
    "lambda": lambda D: lambda x: D.plain(x),
    "default": lambda D: lambda x, own=D: own.plain(x),
    "partial of a lambda": lambda D: functools.partial(lambda f, x: f(x), lambda x: D.plain(x)),
    "compiled": lambda D: torch.compile(D.plain, backend="eager"),
    "autocast": lambda D: torch.autocast("cpu", enabled=False)(D.plain),
    "layers in a list": lambda D: (lambda layers: lambda x: layers[1](relu(layers[0](x))))([D.a, D.b]),
    "weak reference": lambda D: (lambda me: lambda x: me().plain(x))(weakref.ref(D)),
    "parameter": lambda D: (lambda w: lambda x: D.b(relu(nn.functional.linear(x, w))))(D.a.weight),
    "cached": lambda D: functools.lru_cache(lambda x: D.plain(x)),
    "a trainer": lambda D: (lambda trainer: lambda x: trainer(x))(Called(D.plain)),
}


def held_by(kind):
    """Networks and an adapter that hold the original."""
    G, D = mlp_pair()[0], Layers()
    D.run, adapter = D.plain, None
    if kind in HOLDERS:
        D.run = HOLDERS[kind](D)
    elif kind == "global variables, as in a notebook":
        space = {"D": D, "orig": D.plain}
        exec("def helper(x): return orig(x)\nD.run = lambda x: helper(x)\n", space)
    elif kind == "score":
        adapter = Adapter(score=lambda _, x, z, batch: D(x))
    elif kind == "latent":
        adapter = Adapter(latent=lambda n, device, batch: torch.randn(n, Z) * G[0].weight.norm())
    elif kind == "running statistics":
        norm = nn.BatchNorm1d(2, affine=False)
        D.norm = norm
        D.run = lambda x: D.plain(norm(x))
    elif kind == "a buffer":
        D.register_buffer("count", torch.zeros(()))
        D.run = lambda x: D.count.add_(1) * 0 + x.sum(1, keepdim=True)
    return G, D, adapter


@pytest.mark.parametrize("call", [warm_start, inspect])
@pytest.mark.parametrize(
    ("kind", "named"),
    [
        *((kind, "D.a.weight") for kind in HOLDERS),
        ("global variables, as in a notebook", "D.a.weight"),
        ("score", "D.a.weight"),
        ("latent", "G.0.weight"),
        ("running statistics", "D.norm.num_batches_tracked"),
        ("a buffer", "D.count"),
    ],
)
def test_what_holds_the_original_is_refused_before_anything_ran(kind, named, call):
    G, D, adapter = held_by(kind)
    before = Snapshot(G, D)
    with pytest.raises(CoopInitError, match=rf"they reach your own {named}.*holds the original.*Nothing was changed"):
        call(G, D, vectors(), adapter=adapter)
    before.assert_unchanged()


def test_an_attribute_that_is_written_from_outside_is_put_back():
    G, D = mlp_pair()[0], Layers()
    D.run, D.steps = D.plain, []
    D.a.register_forward_hook(lambda *_: D.steps.append(1))
    before = Snapshot(G, D)
    with pytest.raises(CoopInitError, match=r"reach your own attributes.*holds the original"):
        warm(G, D, vectors())
    before.assert_unchanged()
    assert D.steps == []


def test_a_network_whose_own_parameters_do_not_compute_is_refused():
    G, D = mlp_pair()
    other = nn.Linear(2, 1)
    D.forward = lambda x: other(x)
    with pytest.raises(CoopInitError, match=r"No gradient reaches any of D's parameters, e.g. 0\.weight"):
        warm(G, D, vectors())


def test_a_layer_of_d_that_no_gradient_reaches_is_named(caplog):
    G, D = mlp_pair()
    D[0].unused = nn.Linear(3, 3)
    warm(G, D, vectors())
    assert "No gradient reaches D's 0.unused.weight; 0.unused.bias: left as they are." in caplog.text


# --- layers that the user keeps in evaluation mode


def norm_pair(letter):
    G, D = mlp_pair()
    if letter == "G":
        G.insert(1, nn.BatchNorm1d(8))
    else:
        D.insert(1, nn.BatchNorm1d(8))
    norm = (G if letter == "G" else D)[1]
    norm.running_mean.fill_(0.4)
    return G, D, norm


class KeepsNorm(nn.Sequential):
    def train(self, mode=True):
        super().train(mode)
        self[1].eval()
        return self


def by_hand(net, norm):
    norm.eval()


def by_train(net, norm):
    net.__class__ = KeepsNorm
    net.train()


def by_disabling(net, norm):
    norm.eval()
    norm.train = lambda mode=True: norm


@pytest.mark.parametrize("arrives", ["train", "eval"])
@pytest.mark.parametrize("how", [by_hand, by_train, by_disabling])
@pytest.mark.parametrize("letter", ["G", "D"])
def test_frozen_norms_keep_their_statistics(letter, how, arrives):
    G, D, norm = norm_pair(letter)
    net = G if letter == "G" else D
    how(net, norm)
    if arrives == "eval":
        if how is by_hand:
            return  # nothing tells it from the others
        net.eval()
    before, statistics = Snapshot(G, D), [bits(norm.running_mean), bits(norm.running_var)]
    warm_start(G, D, vectors(), handover="logistic", config=None, progress=False, callback=lambda r: r.iteration < 3)
    before.assert_only_values_changed()
    assert [bits(norm.running_mean), bits(norm.running_var)] == statistics


def test_norms_of_a_network_in_evaluation_mode_are_refreshed():
    G, D, norm = norm_pair("D")
    D.eval()
    warm(G, D, vectors())
    assert not torch.allclose(norm.running_mean, torch.tensor(0.4))


# --- averaged copies


@pytest.mark.parametrize(
    "make",
    [
        lambda G: [AveragedModel(G)],
        AveragedModel,
        copy.deepcopy,
        lambda G: (copy.deepcopy(G) for _ in range(2)),
        lambda G: [nn.DataParallel(copy.deepcopy(G))],
    ],
)
def test_whatever_holds_an_averaged_copy_is_seen_through(make):
    G, D = mlp_pair()
    ema = make(G)
    ema = [*ema] if isinstance(ema, types.GeneratorType) else ema
    warm(G, D, vectors(), ema=ema)
    for member in ema if isinstance(ema, list) else [ema]:
        assert_warmed_copy(getattr(member, "module", member), G)


def assert_warmed_copy(averaged, G):
    assert state_bits(averaged) == state_bits(G)


def test_no_averaged_copy():
    G, D = mlp_pair()
    assert_warmed(warm(G, D, vectors(), ema=None), G, D)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda G: [mlp_pair(hidden=4)[0]], r"ema\[0\] \(Sequential\): 0\.weight has shape \(4, 3\)"),
        (lambda G: [copy.deepcopy(G), object()], r"ema\[1\] \(object\): it is no torch.nn.Module"),
        (lambda G: G.state_dict(), r"ema\[0\] \(str\): it is no"),
        (lambda G: 3, r"ema\[0\] \(int\): it is no"),
        (lambda G: [None], r"ema\[0\] \(NoneType\): it is no"),
    ],
)
def test_what_is_no_averaged_copy_is_refused_before_any_iteration(make, said):
    G, D = mlp_pair()
    before, rows = Snapshot(G, D), []
    with pytest.raises(CoopInitError, match=said + r".*ema=\[copy\.deepcopy\(G\)\]"):
        warm(G, D, vectors(), ema=make(G), callback=rows.append)
    before.assert_unchanged()
    assert rows == []


# --- tensors of other kinds


def refused(G, D, said, data=None):
    before, rows = Snapshot(G, D), []
    with pytest.raises(CoopInitError, match=said):
        warm_start(G, D, data or vectors(), handover="logistic", progress=False, callback=rows.append)
    assert rows == []
    before.assert_unchanged()


@pytest.mark.parametrize("persistent", [True, False, None])
def test_tensors_made_by_expand_are_refused(persistent):
    G, D = mlp_pair()
    if persistent is None:
        D[2].weight = nn.Parameter(torch.randn(1, 1).expand(1, 8))
    else:
        D[2].register_buffer("kernel", torch.ones(1).expand(3), persistent)
    refused(G, D, r"discriminator .*2\.(weight|kernel) was made by expand\(\).*clone\(\) it")


def test_networks_on_meta_are_refused():
    G, _ = mlp_pair()
    D = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, 1, device="meta"))
    with pytest.raises(CoopInitError, match=r"discriminator .*2\.weight is on the meta device.*to_empty"):
        warm(G, D, vectors())


@pytest.mark.filterwarnings("ignore:.*jit:DeprecationWarning", "ignore:.*jit:FutureWarning")
def test_torchscript_is_refused_unless_it_is_frozen():
    G, D = mlp_pair()
    for scripted in (torch.jit.script(D), torch.jit.trace(D, vectors()[0]), nn.Sequential(torch.jit.script(D))):
        with pytest.raises(CoopInitError, match=r"is TorchScript.*Give the module that it was made from"):
            warm(G, scripted, vectors())
    extractor = torch.jit.script(nn.Sequential(nn.Linear(2, 4), nn.ReLU()).requires_grad_(False).eval())
    D = nn.Sequential(extractor, nn.Linear(4, 1))
    result = warm_start(G, D, vectors(), handover="logistic", progress=False, callback=lambda row: row.iteration < 3)
    assert_warmed(result, G, D)


def test_networks_and_data_made_in_inference_mode():
    with torch.inference_mode():
        G, D = mlp_pair()
        data = [x + 0 for x in vectors()]
    assert D[0].weight.is_inference()
    assert data[0].is_inference()
    result = warm(G, D, data)
    assert_warmed(result, G, D)
    plain = mlp_pair()
    warm(*plain, vectors())
    assert state_bits(G, D) == state_bits(*plain)


def test_double_precision():
    G, D = (net.double() for net in mlp_pair())
    data = [x.double() for x in vectors()]
    result = warm_start(G, D, data, handover="logistic", progress=False, callback=lambda row: row.iteration < 3)
    assert_warmed(result, G, D)
    assert D[0].weight.dtype == torch.float64


def test_double_precision_by_default():
    torch.set_default_dtype(torch.float64)
    try:
        G, D = mlp_pair()
        data = vectors()
        result = warm_start(G, D, data, handover="logistic", progress=False, callback=lambda row: row.iteration < 3)
        assert_warmed(result, G, D)
        assert G[0].weight.dtype == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


class Reentrant(nn.Module):
    def __init__(self, net, reentrant=True) -> None:
        super().__init__()
        self.net, self.reentrant = net, reentrant

    def forward(self, x):
        return checkpoint(self.net[2], self.net[1](self.net[0](x)), use_reentrant=self.reentrant)


def test_reentrant_checkpointing_is_refused_and_the_other_kind_is_not():
    G, D = mlp_pair()
    for networks in ((G, Reentrant(D)), (Reentrant(G), D)):
        refused(*networks, r"A trial pass .*fails.*checkpoint needs use_reentrant=False")
    warm(Reentrant(G, reentrant=False), Reentrant(D, reentrant=False), vectors())


def test_a_batch_of_one_under_batch_norm_is_refused():
    G, D, _ = norm_pair("D")
    refused(G, D, r"A trial pass .*fails.*larger batch_size", [x[:1] for x in vectors()])


class Labelled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table, self.out = nn.Embedding(10, 4, sparse=True), nn.Linear(6, 1)

    def forward(self, x, labels):
        return self.out(torch.cat([x, self.table(labels)], 1))


def test_sparse_embeddings_get_dense_gradients():
    G, D = mlp_pair()[0], Labelled()
    data = [(x, torch.randint(0, 10, (32,))) for x in vectors()]
    before, table = Snapshot(G, D), D.table.weight.detach().clone()
    warm_start(G, D, data, handover="logistic", progress=False, callback=lambda row: row.iteration < 3)
    before.assert_only_values_changed()
    assert D.table.sparse
    assert not torch.equal(table, D.table.weight)


def test_sparse_batches_are_made_dense():
    G, D = mlp_pair()
    plain = mlp_pair()
    warm(G, D, [x.to_sparse() for x in vectors()])
    warm(*plain, vectors())
    assert state_bits(G, D) == state_bits(*plain)


def test_without_stderr(monkeypatch):
    monkeypatch.setattr("sys.stderr", None)
    G, D = mlp_pair()
    result = warm_start(G, D, vectors(), handover="logistic", callback=lambda row: row.iteration < 3)
    assert_warmed(result, G, D)


# --- memory that tensors share


def tied_by_data(G, D):
    D[2].weight = nn.Parameter(D[0].weight.data.flatten()[:8].view(1, 8))


def a_view_as_a_buffer(G, D):
    D[0].register_buffer("flat", D[0].weight.data.view(-1), persistent=False)


def of_both_networks(G, D):
    D[0].bias.data = G[0].bias.data


@pytest.mark.parametrize(
    ("share", "said"),
    [
        (tied_by_data, r"D\.(2|0)\.weight and D\.(2|0)\.weight"),
        (a_view_as_a_buffer, r"D\.0\.(weight|flat) and D\.0\.(weight|flat)"),
        (of_both_networks, r"G\.0\.bias and D\.0\.bias|D\.0\.bias and G\.0\.bias"),
    ],
)
def test_tensors_in_the_same_memory_are_refused(share, said):
    G, D = mlp_pair()
    share(G, D)
    refused(G, D, rf"({said}) share their memory: clone\(\) one, or tie them")


def test_parts_of_one_memory_are_no_matter():
    """As the weights of a recurrent layer on a GPU are."""
    G, D = mlp_pair()
    whole = torch.cat([parameter.data.flatten() for parameter in D.parameters()])
    for parameter, part in zip(D.parameters(), whole.split([p.numel() for p in D.parameters()]), strict=True):
        parameter.data = part.view(parameter.shape)
    assert_warmed(warm(G, D, vectors()), G, D)


def test_buffers_may_be_views_of_one_constant():
    G, D = mlp_pair()
    constant = torch.ones(2, 4)
    for layer in (*G, *D):
        layer.register_buffer("kernel", constant[None])
        layer.register_buffer("row", constant[1])
    result = warm(G, D, vectors())
    assert_warmed(result, G, D)
    result.load_into(G, D)


def test_weights_are_not_loaded_into_tensors_in_the_same_memory():
    G, D = mlp_pair()
    result = warm(G, D, vectors())
    tied_by_data(G, D)
    before = Snapshot(G, D)
    with pytest.raises(CoopInitError, match=r"do not fit D .*(2|0)\.weight and (2|0)\.weight share their memory"):
        result.load_into(G, D)
    before.assert_unchanged()


# --- the wrong way round


def test_networks_in_the_wrong_order_are_named():
    G, D = mlp_pair()
    G.__class__, D.__class__ = type("Gen", (nn.Sequential,), {}), type("Disc", (nn.Sequential,), {})
    for call in (warm_start, inspect):
        with pytest.raises(CoopInitError, match=r"wrong order: Gen, given second.* which Disc, given first"):
            call(D, G, vectors())


def test_a_network_that_is_missing_is_named():
    G, D = mlp_pair()
    with pytest.raises(CoopInitError, match=r"generator is a NoneType.*Does the function that makes it return it"):
        warm(None, D, vectors())
    result = warm(G, D, vectors())
    with pytest.raises(CoopInitError, match=r"^D is a NoneType; expected a torch\.nn\.Module.*load_into\(G, D\)"):
        result.load_into(G, None)
    before = Snapshot(G, D)
    with pytest.raises(CoopInitError, match=r"do not fit G .*wrong order, write load_into\(G, D\)"):
        result.load_into(D, G)
    before.assert_unchanged()
