"""The end of a warm-up: G and D are made fit for the adversarial loop that follows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from coopinit_plugin.calling.adapter import Adapter, following_loss
from coopinit_plugin.calling.data import check_finite
from coopinit_plugin.finite import check_weights
from coopinit_plugin.host.checkpoint import tensors_of
from coopinit_plugin.host.randomness import random_state, set_random_state
from coopinit_plugin.loop import Stage
from coopinit_plugin.method.hand_over import hand_over, restored_sizes, slowed_generator
from coopinit_plugin.method.kept import buffers, kept
from coopinit_plugin.method.pair import Pair
from coopinit_plugin.state import State

logger = logging.getLogger(__name__)

FEW = 8  # the logits of fewer samples are alike, or changed alike, by chance


def handed_over(pair: Pair, adapter: Adapter, state: State, stage: Stage) -> dict[str, Any]:
    """Make D fit for the adversarial loss that follows; what was done, for the summary."""
    config, run, batches = stage.config, stage.run, state.batches

    def draw() -> tuple[Any, Any, Any]:
        drawn = pair.draw(next(batches), run.device)
        check_finite(drawn[0], "Hand-over")
        return drawn

    still = _still(pair)
    before = (FEW - 1) // len(tree_leaves(pair.real(batches.peek()))[0])
    few = [*(draw() for _ in range(before)), pair.draw(batches.peek(), run.device)]  # the last one is not used up
    resized = slowed = 0
    apart = {*pair.G.parameters()}.isdisjoint(pair.D.parameters())  # else the one would change with the other
    if config.handover != "none" and apart and config.most_iterations:
        resized = restored_sizes(still, few, state.sizes["D"])
        slowed = slowed_generator(still, few[-1][1], state.sizes["G"])
        run.from_main([*tensors_of(pair.G).values(), *tensors_of(pair.D).values()])  # judged by own samples
    kind, loss = following_loss(config.handover, adapter)
    told, worries = hand_over(pair, still, few, draw, kind, loss, config.r1, state.settings.team)
    for worry in worries if run.is_main else ():
        logger.warning(worry)
    run.from_main([*tensors_of(pair.G).values(), *tensors_of(pair.D).values()])
    check_weights(pair.G, "G", config)
    check_weights(pair.D, "D", config)
    return {"layers_resized": resized, "layers_slowed": slowed, **told}


def _still(pair: Pair) -> Pair:
    """The pair, as functions that give the same for the same: random state and buffers are the same at every call."""
    modules = [*pair.G.modules(), *pair.D.modules()]
    own = [value for module in modules for value in vars(module).values() if isinstance(value, torch.Generator)]
    state = random_state(own)

    def still(f: Callable[..., Any]) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            with kept(partial(set_random_state, random_state(own), own), buffers(pair.G, pair.D)):
                set_random_state(state, own)
                return f(*given)

        return call

    return replace(pair, generate=still(pair.generate), logits=still(pair.logits))
