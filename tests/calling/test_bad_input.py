"""A user's mistake is one error that says what was given, what was expected, and what to try; nothing has changed."""

from __future__ import annotations

import copy
import re
import threading
from dataclasses import fields

import pytest
import torch
from networks import Fuse, Lambda, Z, conv_pair, hooks, images, mlp_pair, short, vectors
from snapshot import Snapshot
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from coopinit_plugin import Adapter, CoopInitError, WarmStartConfig, infer_sign, warm_start


def refused(G, D, loader, *words: str, **given) -> str:
    """The message; it holds all the words, and the networks and the world are as before."""
    before = Snapshot(*[module for module in (G, D) if isinstance(module, nn.Module)])
    with pytest.raises(CoopInitError) as caught:
        warm_start(G, D, loader, **{"config": short(iterations=12), "progress": False, **given})
    before.assert_unchanged()
    message = str(caught.value)
    for word in words:
        assert word in message, f"{word!r} is not in: {message}"
    assert len(message) > 60  # what was given, what was expected, what to try: no one-word errors
    return message


# --- the loader


@pytest.mark.parametrize("loader", [[], DataLoader(TensorDataset(torch.zeros(3, 2)), batch_size=8, drop_last=True)])
def test_an_empty_loader(loader):
    refused(*mlp_pair(), loader, type(loader).__name__, "no batch", "drop_last")


@pytest.mark.parametrize("loader", [None, 7, nn.Linear(2, 2)])
def test_something_that_cannot_be_iterated(loader):
    refused(*mlp_pair(), loader, type(loader).__name__, "cannot be iterated", "DataLoader(")


def test_an_iterator_that_ends_too_soon():
    refused(*mlp_pair(), iter(vectors(5)), "ended after 5 batches", "DataLoader itself")
    refused(*mlp_pair(), (x for x in vectors(2)), "ended after 2 batches", "endless", adapter=hooks())


def test_a_loader_that_gives_nothing_the_second_time():
    class Once:
        def __init__(self) -> None:
            self.batches = vectors(3)

        def __iter__(self):
            while self.batches:
                yield self.batches.pop()

    refused(*mlp_pair(), Once(), "ended after 3 batches", "iterated again")


# --- the data


def test_data_of_another_shape_than_gs_output():
    refused(*mlp_pair(), vectors(data=5), "(32, 2)", "(32, 5)", "shapes must be the same", "Adapter(real=")
    G, D = conv_pair()
    latent = Adapter(latent=lambda n, device, batch: torch.randn(n, Z))
    refused(G, D, [torch.randn(8, 2, 8, 8)], "(8, 2, 4, 4)", "(8, 2, 8, 8)", "Resize", adapter=latent)


def test_labels_where_images_are_expected():
    labels = [torch.randint(10, (8,)) for _ in range(3)]
    refused(*conv_pair(), labels, "labels", "(8,) int64", "(N, C, H, W)", "Adapter(real=lambda batch:")


def test_images_in_whole_numbers():
    data = [(torch.randint(256, (8, 2, 4, 4), dtype=torch.uint8), torch.randint(10, (8,)))]
    refused(*conv_pair(), data, "uint8", "whole numbers", "batch[0].float() / 127.5 - 1")


def test_batches_without_any_tensor():
    refused(*mlp_pair(), [["a", "b"]], "no tensor was found", 'Adapter(real=lambda batch: batch["image"])')


def test_constant_data():
    refused(*mlp_pair(), [torch.full((8, 2), 0.5)] * 3, "constant", "0.5", "transforms", adapter=hooks())


def test_one_number_a_sample_without_a_dimension_of_its_own():
    G, D = mlp_pair(data=1)
    adapter = hooks(generate=lambda G, z: G(z).flatten(), score=lambda D, x, z, batch: D(x[:, None]))
    refused(G, D, [torch.randn(8)] * 3, "(8,)", "unsqueeze(1)", adapter=adapter)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_first_batch_that_is_not_finite(bad):
    data = vectors()
    data[0][3, 1] = bad
    refused(*mlp_pair(), data, "not finite", "1 of 64 numbers", "first batch", "nan_to_num")


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("make", [mlp_pair, conv_pair])
def test_a_later_batch_that_is_not_finite(bad, make):
    data = vectors(6) if make is mlp_pair else images(6)
    data[4].view(32, -1)[3, :2] = bad
    adapter = hooks()
    refused(*make(), data, "Iteration 5", "loader gave data that are not finite", "2 of ", adapter=adapter)


@pytest.mark.parametrize("handover", ["auto", "logistic", "wasserstein", "none"])
def test_data_that_are_not_finite_and_come_only_at_the_hand_over(handover):
    data = vectors(12)
    data[8][:] = float("nan")
    config = short(handover=handover)
    refused(*mlp_pair(), data, "loader gave data that are not finite", config=config, adapter=hooks())


# --- the networks


def no_path():
    return nn.Sequential(Lambda(lambda x: x.detach()), mlp_pair()[1])


def test_a_d_without_a_gradient_path():
    refused(mlp_pair()[0], no_path(), vectors(), "no gradient path", "detach()", "Adapter(score=", adapter=hooks())


@pytest.mark.parametrize("step_size", ["balanced", 0.1])
def test_a_d_whose_gradient_is_always_zero(step_size):
    D = nn.Sequential(Lambda(torch.round), mlp_pair()[1])
    config = short(iterations=30, step_size=step_size)
    words = ("exactly zero", "10 iterations", "round", "Adapter(score=")
    refused(mlp_pair()[0], D, vectors(), *words, config=config, adapter=hooks())


def test_a_last_layer_that_starts_at_zero_is_no_mistake():
    G, D = mlp_pair()
    nn.init.zeros_(D[2].weight)
    result = warm_start(G, D, vectors(), config=short(iterations=12), adapter=hooks(), progress=False)
    assert result.history[0].step_size == 0.0
    assert result.history[-1].step_size > 0


@pytest.mark.parametrize("which", ["generator", "discriminator"])
def test_networks_without_parameters(which):
    G, D = mlp_pair()
    empty = nn.Sequential(Lambda(lambda x: x.mean(1, keepdim=True)))
    pair = (empty, D) if which == "generator" else (G, empty)
    refused(*pair, vectors(), which, "Sequential", "no parameters", "ModuleList")


@pytest.mark.parametrize("which", ["generator", "discriminator"])
@pytest.mark.parametrize("wrong", [nn.Linear, lambda z: z, None, "net.pt", {"weight": 1}])
def test_what_is_no_module(which, wrong):
    G, D = mlp_pair()
    pair = (wrong, D) if which == "generator" else (G, wrong)
    given = "the class Linear" if wrong is nn.Linear else f"a {type(wrong).__name__}"
    refused(*pair, vectors(), f"{which} is {given}; expected a torch.nn.Module")


@pytest.mark.parametrize("which", ["generator", "discriminator"])
def test_lazy_modules(which):
    G, D = mlp_pair()
    lazy = nn.Sequential(nn.LazyLinear(4), nn.LeakyReLU(), nn.LazyLinear(2 if which == "generator" else 1))
    pair = (lazy, D) if which == "generator" else (G, lazy)
    with pytest.raises(CoopInitError, match=rf"{which} \(Sequential\) has lazy layers.*forward pass") as caught:
        warm_start(*pair, vectors(), progress=False)
    assert "batch" in str(caught.value)
    assert isinstance(lazy[0].weight, nn.UninitializedParameter)


@pytest.mark.parametrize("which", [0, 1])
def test_a_module_that_cannot_be_copied(which):
    pair = mlp_pair()
    pair[which].lock = threading.Lock()
    refused(*pair, vectors(), "cannot be copied", "lock", "__deepcopy__")


def test_a_g_whose_latent_cannot_be_known():
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.w = nn.Parameter(torch.ones(7))

        def forward(self, z, mood, hour):
            return z[:, :2] * self.w.sum()

    refused(Odd(), mlp_pair()[1], vectors(), "Odd", "Adapter(latent=lambda n, device, batch:")


def test_a_latent_that_g_does_not_take():
    adapter = Adapter(latent=lambda n, device, batch: torch.randn(n, 9))
    refused(*mlp_pair(), vectors(), "(32, 9)", "Adapter(latent=", adapter=adapter)


def test_a_d_that_does_not_take_the_data():
    G, _ = mlp_pair()
    refused(G, mlp_pair(data=5)[1], vectors(), "D (Sequential)", "(32, 2)", "Adapter(score=")


# --- what goes wrong on the way


class Failing(nn.Module):
    """Gives NaN from the n-th call in training on; in its output, or only in its gradient."""

    def __init__(self, at: int, *, gradient: bool = False) -> None:
        super().__init__()
        self.fuse, self.at, self.gradient = Fuse(), at, gradient

    def forward(self, x):
        self.fuse.light()
        if self.fuse.lit < self.at:
            return x
        if self.gradient:
            return x + torch.sqrt(x.detach() * 0 + (x - x) ** 2)  # 0 with gradient NaN
        return x * float("nan")


def calls_of(module_index: int, iterations: int) -> int:
    """How often D (1) or G (0) is called before an iteration ends, counted in a run without failure."""
    fuse = Failing(10**9)
    G, D = mlp_pair()
    pair = (nn.Sequential(G, fuse), D) if module_index == 0 else (G, nn.Sequential(D, fuse))
    lit = []
    warm_start(
        *pair,
        vectors(),
        config=short(iterations=iterations),
        adapter=hooks(),
        progress=False,
        callback=lambda step: lit.append(fuse.fuse.lit),
    )
    return lit[-1]


def test_logits_that_are_not_finite_any_more():
    G, D = mlp_pair()
    D = nn.Sequential(D, Failing(calls_of(1, 5) + 1))
    words = ("Iteration 6", "D's logits of real samples are nan", "untouched", "lr_discriminator=", "energy_l2=")
    refused(G, D, vectors(), *words, adapter=hooks())


def test_a_gradient_of_d_that_is_not_finite_any_more():
    G, D = mlp_pair()
    D = nn.Sequential(D[0], Failing(calls_of(1, 5) + 1, gradient=True), *D[1:])
    refused(G, D, vectors(), "Iteration 6", "of refined ones nan", "epsilon", adapter=hooks())


def test_samples_of_g_that_are_not_finite_any_more():
    G, D = mlp_pair()
    G = nn.Sequential(G, Failing(calls_of(0, 5) + 1))
    refused(G, D, vectors(), "Iteration 6", "of refined ones nan", adapter=hooks())


def test_a_fixed_step_is_named_as_what_may_be_wrong():
    G, D = mlp_pair()
    D = nn.Sequential(D, Failing(calls_of(1, 5) + 1))
    config = short(iterations=12, step_size=0.1)
    refused(G, D, vectors(), "Iteration", 'step_size="balanced"', config=config, adapter=hooks())


class NotFinite(torch.autograd.Function):
    """The identity; backwards NaN, once the condition holds."""

    @staticmethod
    def forward(ctx, x, condition):
        ctx.condition = condition
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("nan") if ctx.condition() else gradient, None


class Brittle(nn.Module):
    """A linear layer whose weight, not its input, gets a gradient that is not finite once the condition holds."""

    def __init__(self, layer: nn.Linear, condition) -> None:
        super().__init__()
        self.layer, self.condition = layer, condition

    def forward(self, x):
        weight = NotFinite.apply(self.layer.weight, self.condition)
        return nn.functional.linear(x, weight, self.layer.bias)


@pytest.mark.parametrize("letter", ["G", "D"])
def test_a_last_gradient_that_is_not_finite(letter):
    """No iteration follows in which the logits would tell."""
    finished = []
    G, D = mlp_pair()
    (G if letter == "G" else D)[0] = Brittle((G if letter == "G" else D)[0], lambda: len(finished) == 2)
    words = ("left weights that are not finite", "lr_discriminator=", "epsilon")
    refused(G, D, vectors(), *words, config=short(), adapter=hooks(), callback=finished.append)


# --- the settings

WRONG = {
    "iterations": [-1, 2.5, "many", None, True, "Auto"],
    "max_iterations": [0, -5, 1.5, "auto", None, True],
    "max_seconds": [0, -1, float("nan"), float("inf"), "60", True],
    "langevin_steps": [0, -1, 0.5, "2", None, True],
    "step_size": [0, -0.1, float("nan"), float("inf"), "big", None, True],
    "noise": [-0.1, float("nan"), float("inf"), "some", True],
    "lr_generator": [0, -1e-3, 2, float("nan"), "1e-3", None, True],
    "lr_discriminator": [0, -1e-3, 2, float("nan"), "1e-3", None, True],
    "betas": [0.5, (0.5,), (0.5, 1.0), (-0.1, 0.9), ("a", "b"), None, (0.5, 0.9, 0.9), (True, 0.9)],
    "averaging": [-0.1, 1, float("nan"), "0.9", None, True],
    "energy_l2": [-0.1, float("nan"), float("inf"), "0.1", None, True],
    "handover": ["wgn", "", None, 1, "logits", ["hinge"]],
    "r1": [-1, float("nan"), float("inf"), "10", None, True],
    "seed": [-1, 1.5, "0", None, True, 2**63],
}


def test_every_field_of_the_settings_is_tried():
    assert set(WRONG) == {field.name for field in fields(WarmStartConfig)}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in WRONG.items() for value in values])
def test_a_wrong_setting_is_refused_by_name_and_value(name, value):
    with pytest.raises(CoopInitError) as caught:
        WarmStartConfig(**{name: value})
    message = str(caught.value)
    assert message.startswith(f"WarmStartConfig: {name}={value!r} was given")
    assert re.search(rf"but {name} must be .{{8,}}\.", message)


@pytest.mark.parametrize(
    "right",
    [
        {"iterations": 1},
        {"step_size": 1},
        {"noise": 0},
        {"noise": 0.5},
        {"lr_generator": 1},
        {"betas": [0.0, 0.9]},
        {"energy_l2": 0},
        {"seed": 2**63 - 1},
        {"iterations": 0},
        *({"handover": kind} for kind in ("auto", "none", "logistic", "hinge", "least_squares", "wasserstein")),
    ],
)
def test_a_right_setting_is_taken(right):
    config = WarmStartConfig(**right)
    (name, value) = next(iter(right.items()))
    assert getattr(config, name) == (tuple(value) if isinstance(value, list) else value)
    assert hash(config) == hash(copy.deepcopy(config))


def test_the_settings_cannot_be_changed_afterwards():
    config = WarmStartConfig()
    with pytest.raises(AttributeError):
        config.iterations = 3


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("iteration", "iterations"),
        ("lr_gen", "lr_generator"),
        ("langevin_step", "langevin_steps"),
        ("hand_over", "handover"),
    ],
)
def test_a_misspelt_field_gets_a_suggestion(typed, meant):
    with pytest.raises(CoopInitError, match=rf"no field '{typed}'.*Did you mean '\w+'"):
        WarmStartConfig(**{typed: 1})
    with pytest.raises(CoopInitError, match=meant):
        WarmStartConfig(**{typed: 1})


def test_an_unknown_field_gets_the_list_of_fields():
    with pytest.raises(CoopInitError, match=r"no field 'zzz'.*iterations.*seed"):
        WarmStartConfig(zzz=1)


def test_a_misspelt_hand_over_gets_a_suggestion():
    with pytest.raises(CoopInitError, match=r"did you mean 'logistic'.*d_loss"):
        WarmStartConfig(handover="logstic")


@pytest.mark.parametrize("config", [{"iterations": 3}, "fast", 100])
def test_settings_of_another_type(config):
    refused(*mlp_pair(), vectors(), f"config is a {type(config).__name__}", "WarmStartConfig(", config=config)


def test_an_adapter_of_another_type():
    refused(*mlp_pair(), vectors(), "adapter is a dict", "Adapter(", adapter={"latent": None})


def test_an_accelerator_of_another_type():
    refused(*mlp_pair(), vectors(), "accelerator is a str", "accelerate.Accelerator", accelerator="cpu")


def test_half_precision_that_underflows():
    from accelerate import Accelerator

    class Half(Accelerator):
        mixed_precision = "fp16"

    refused(*mlp_pair(), vectors(), "fp16", 'mixed_precision="bf16"', accelerator=Half(cpu=True))


def test_resume_without_a_folder():
    refused(*mlp_pair(), vectors(), "resume=True", "output_dir=", resume=True)


def test_resume_into_another_architecture(tmp_path):
    warm_start(*mlp_pair(), vectors(), config=short(), adapter=hooks(), progress=False, output_dir=tmp_path / "init")
    words = ("0.weight has shape (8, 5)", "(8, 2) in the weights", "Nothing was changed")
    given = {"config": short(), "output_dir": tmp_path / "init", "resume": True}
    refused(mlp_pair()[0], mlp_pair(data=5)[1], vectors(), *words, **given)


@pytest.mark.parametrize("hook", ["real", "latent", "generate", "score", "d_loss", "after_d_step"])
def test_a_hook_that_is_no_function(hook):
    with pytest.raises(CoopInitError, match=rf"{hook}=3 was given.*Adapter\({hook}=lambda"):
        Adapter(**{hook: 3})


def test_a_sign_that_is_no_boolean():
    with pytest.raises(CoopInitError, match="real_is_high='yes'"):
        Adapter(real_is_high="yes")


@pytest.mark.parametrize("loss", [lambda r, f: (r * 0 + f * 0).mean(), lambda r, f: (r * float("nan") + f).mean()])
def test_a_loss_that_tells_no_sign(loss):
    with pytest.raises(CoopInitError, match=r"tells no sign.*real_is_high"):
        infer_sign(loss)


def test_a_loss_of_other_arguments():
    with pytest.raises(CoopInitError, match=r"d_loss.*\(f_real, f_fake\)|two tensors"):
        infer_sign(lambda logits: logits.mean())


def test_an_error_of_the_users_own_hooks_says_which_one_it_was():
    def broken(*_):
        raise KeyError("image")

    for hook in ("real", "latent", "generate", "score"):
        refused(*mlp_pair(), vectors(), hook, "KeyError", adapter=hooks(**{hook: broken}))
