"""Find out how a pair of networks is called, prove it by forward passes, and say what was found.

If two readings are possible, nothing is guessed: the error names the hook to give and shows the line to write.
"""

import dataclasses
import re
from typing import Any

import torch
from torch import nn
from torch.utils._pytree import tree_leaves, tree_map

from coopinit_plugin.calling import data, generators, scores
from coopinit_plugin.calling.adapter import Adapter, Findings, Row, fresh, infer_sign, line, unclear
from coopinit_plugin.calling.proof import learnable
from coopinit_plugin.calling.sigmoids import Scoring
from coopinit_plugin.method.energy_mode import likelihood_mode
from coopinit_plugin.method.kept import buffers, kept, training
from coopinit_plugin.method.pair import detached
from coopinit_plugin.nests import describe, first_line

TELLING = "norm|dropout|rnn|lstm|gru|minibatch|stddev"  # in the names of layers that matter to the warm-up


def look(
    G: nn.Module, D: nn.Module, batch: Any, device: torch.device, given: Adapter, loss_named: bool = False
) -> Adapter:
    """Complete the adapter for plain copies of G and D; their buffers and flags are put back.

    If the user has named the loss that follows (`loss_named`), D is high on real as that loss has it.
    """
    unlearnt = {name: torch.no_grad()(hook) for name in ("real", "latent") if (hook := getattr(given, name))}
    given = dataclasses.replace(given, **unlearnt)  # a network of the user's inside them gets no gradient
    with kept(buffers(G, D), training(G, D)):
        G.train()
        likelihood_mode(D)
        held = data.held(batch, given.real)
        guess, z, out = generators.find(G, held, device, given)
        latent, generate = given.latent or guess.latent, given.generate or guess.generate
        found = Findings([("batch", describe(batch), "of the loader")])
        real, pick, name = data.match(held.without(z), out, found)
        x, made = tree_map(torch.clone, real(batch)), pick(out)  # D may work in place
        n = tree_leaves(x)[0].shape[0]
        data.check_finite(x, "The first batch")
        data.compare_ranges(x, made, name, found)
        found.warnings += learnable(G, made)
        z = latent(n, device, batch)
        found.rows += guess.rows(z)
        score, sigmoid, conditional = scores.find(D, held, x, z, guess.condition, name, given, found)
        if conditional:
            generators.ask_condition(G, guess, held)
        high = _is_high(given, sigmoid, loss_named, found)
        _judge(D, score, detached(made), z, batch)
        found.rows += [_traits("G", G), _traits("D", D)]
        found.rows.append(("batch rule", f"{n} samples", "kept throughout; smaller batches are left out"))
        return dataclasses.replace(
            given,
            real=real,
            latent=latent,
            generate=lambda G, z: pick(generate(G, z)),
            score=score,
            real_is_high=high,
            ends_in_sigmoid=sigmoid,
            findings=tuple(found.rows),
            warnings=tuple(found.warnings),
        )


def _is_high(given: Adapter, sigmoid: bool, loss_named: bool, found: Findings) -> bool:
    """Whether D is high on real: told by the user's own loss, else as given."""
    high = given.real_is_high if given.d_loss is None else infer_sign(given.d_loss)
    known = {
        "told by d_loss": given.d_loss is not None,
        "given (real_is_high)": not high,
        "assumed, as after a sigmoid": sigmoid,
        "as the loss named in the settings has it": loss_named,
    }
    how = next((how for how, holds in known.items() if holds), "assumed")
    found.rows.append(("sign", "real is high" if high else "real is low", how))
    if how == "assumed":
        found.warnings.append(
            "I cannot know whether D is high on real: assumed yes. Check with coopinit_plugin.infer_sign(your_d_loss), "
            "or give Adapter(d_loss=your_d_loss)."
        )
    return high


@torch.no_grad()
def _judge(D: nn.Module, score: Scoring, fake: Any, z: Any, batch: Any) -> None:
    """Prove that D takes G's sample, too."""
    try:
        score(D, fresh(fake), fresh(z), batch)
    except Exception as error:
        seen = f"D takes the data, but not G's sample {describe(fake)}: {first_line(error)}"
        raise unclear(f"{seen}\nWhat does your loop make of G's output?", line(generate="G(z)")) from error


def _traits(letter: str, module: nn.Module) -> Row:
    """The network's class and size, and its layers that matter to the warm-up."""
    hooks = [hook for child in module.modules() for hook in child._forward_pre_hooks.values()]
    names = {type(part).__name__.strip("_") for part in [*module.modules(), *hooks] if part is not module}
    size = sum(parameter.numel() for parameter in module.parameters())
    telling = sorted(name for name in names if re.search(TELLING, name.lower()))
    return letter, f"{type(module).__name__}, {size:,} parameters", ", ".join(telling)
