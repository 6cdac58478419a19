"""Before the first iteration: whether the call makes sense, how G and D are called, and what a step of theirs costs."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from os import PathLike
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset

from coopinit_plugin.calling.adapter import Adapter, bound, following_loss, line
from coopinit_plugin.calling.data import spread
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.copies import copies
from coopinit_plugin.host.engine import Engine
from coopinit_plugin.host.guarded_pass import prove, seen
from coopinit_plugin.host.networks import brief, device_of, unwrap
from coopinit_plugin.host.randomness import borrowed_randomness
from coopinit_plugin.method.kept import buffers, kept, training, values
from coopinit_plugin.method.pair import Pair, detached, release_graphs

logger = logging.getLogger(__name__)

REPETITIONS = 5  # of an adversarial iteration, for its cost

Networks = tuple[nn.Module, nn.Module]  # G and D


def settings(
    config: Any, handover: str | None, adapter: Any, output_dir: Any, resume: bool, callback: Any = None
) -> WarmStartConfig:
    """The settings that a call asks for, after a look at what else it gives."""
    kinds: tuple[tuple[str, Any, Any, str], ...] = (
        ("config", config, WarmStartConfig, "coopinit_plugin.WarmStartConfig(...), e.g. WarmStartConfig(r1=10)"),
        ("adapter", adapter, Adapter, f"coopinit_plugin.Adapter(...), e.g. {line(score='D(x)[0]')}"),
        ("output_dir", output_dir, (str, PathLike), 'a folder, e.g. "init/"'),
        ("callback", callback, Callable, "a function (step) -> None, or False to stop, e.g. lambda step: print(step)"),
    )
    for name, value, kind, expected in kinds:
        if value is not None and not isinstance(value, kind):
            raise CoopInitError(f"{name} is a {type(value).__name__}; expected {expected}.")
    if resume and output_dir is None:
        raise CoopInitError('resume=True needs output_dir, the folder to go on from, e.g. output_dir="init/".')
    config = config or WarmStartConfig()
    if handover is None:
        return config
    asked = replace(config, handover=handover)
    if config.handover not in ("auto", asked.handover):
        raise CoopInitError(f"handover={handover!r} was given, config has {config.handover!r}. Give one of the two.")
    return asked


def check_loader(loader: Any) -> None:
    """Refuse what gives single samples, or keys, in place of batches."""
    single = isinstance(loader, (Dataset, Tensor, str, bytes, Mapping)) and not isinstance(loader, IterableDataset)
    if single or hasattr(loader, "__array__") or hasattr(loader, "column_names"):  # NumPy's; the package datasets'
        raise CoopInitError(
            f"loader is a {type(loader).__name__}, which gives single samples or keys; expected batches. Write "
            "DataLoader(dataset, batch_size=64, shuffle=True, drop_last=True), from torch.utils.data, of your Dataset, "
            'tensor or array; of one of the package datasets that is dataset.with_format("torch").'
        )


def inspect(generator: nn.Module, discriminator: nn.Module, loader: Any, *, adapter: Adapter | None = None) -> Adapter:
    """Run one batch through both networks and report how they are called. Nothing is changed.

    Args:
        generator: G.
        discriminator: D.
        loader: Any iterable of batches; an iterator gives one, any other up to 512 samples.
        adapter: Hooks already known; the others are inferred.

    Returns:
        A complete adapter; ``print`` it for the table of what was found, how, and the warnings.

    Raises:
        CoopInitError: if something cannot be known; the message shows the line to write.
    """
    check_loader(loader)
    with torch.inference_mode(False), torch.enable_grad(), borrowed_randomness(0, loader):
        G, D = copies(generator, discriminator)
        device = device_of(D) or torch.device("cpu")
        batches = Batches(loader, device)
        found = seen((generator, discriminator), G.to(device), D, batches.peek(), adapter or Adapter())
        assert found.real is not None
        spread(found.real, [batches.peek()] if batches.once else batches.ahead())  # refuses constant data
    rows = list(found.findings)
    for letter, module in (("G", generator), ("D", discriminator)):
        if (plain := unwrap(module)) is not module:
            rows.append((f"wrapper of {letter}", type(module).__name__, f"seen through, to {type(plain).__name__}"))
        if not any(parameter.requires_grad for parameter in module.parameters()):
            rows.append((f"{letter}'s flags", "all frozen", "trained in the warm-up all the same; the flags stay"))
    return replace(found, findings=tuple(rows))


def known(
    users: Networks, ours: Networks, batches: Batches, given: Adapter, handover: str, run: Engine
) -> tuple[Adapter, Pair]:
    """How our copies of the user's G and D are called; and proof that they can be warmed up so."""
    adapter = seen(users, *ours, batches.peek(), given, handover not in ("auto", "none"))
    pair = bound(*ours, adapter, run.accelerator.autocast)
    unreached = prove(users, pair, batches.peek(), run.device)
    logger.info("How G and D are called:\n%s", adapter)
    worries = [*adapter.warnings]
    if following_loss(handover, adapter)[0] == "unit":
        worries.append(
            "Which adversarial loss follows is not known: D's logits will get standard deviation 1, best for none. "
            'Say it by one word, e.g. warm_start(G, D, loader, handover="logistic"), or give your own loss of D.'
        )
    if unreached:
        worries.append(f"No gradient reaches D's {brief(unreached)}: left as they are. Is that so in your loop, too?")
    for worry in worries if run.is_main else ():
        logger.warning(worry)
    return adapter, pair


def adversarial_seconds(pair: Pair, batch: Any, device: torch.device, seed: int) -> float:
    """Median seconds of a plain adversarial iteration: a step of D and one of G, each by Adam, without a penalty."""
    trained = [parameter for parameter in nn.ModuleList([pair.G, pair.D]).parameters() if parameter.requires_grad]
    adam = torch.optim.Adam(trained)
    ends = []
    with borrowed_randomness(seed), kept(values(trained), buffers(pair.G, pair.D), training(pair.G, pair.D)):
        pair.G.train()
        pair.D.train()
        x, z, batch = pair.draw(batch, device)
        for _ in range(1 + REPETITIONS):  # the first one also compiles and tunes: it does not count
            g = pair.generate(z)
            for samples in (x, detached(g), g):
                release_graphs(pair.D)
                gradients = torch.autograd.grad(pair.score(samples, z, batch).mean(), trained, allow_unused=True)
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            adam.step()
            if device.type != "cpu":
                torch.accelerator.synchronize(device)
            ends.append(time.perf_counter())
        adam.zero_grad()
    return median(end - begin for begin, end in pairwise(ends))
