"""The loop of the warm-up: all that moves, and the iterations, reported and stored on the way, until the stop."""

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.optim import Adam
from torch.utils._pytree import tree_leaves
from tqdm.auto import tqdm

from coopinit_plugin.calling.data import check_finite, spread
from coopinit_plugin.calling.scores import needs_batch
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.host.batches import Batches
from coopinit_plugin.host.checkpoint import Checkpoints, check_same, identity
from coopinit_plugin.host.copies import trained
from coopinit_plugin.host.engine import Engine
from coopinit_plugin.host.memory_format import lay_out
from coopinit_plugin.host.networks import tensors_of
from coopinit_plugin.host.randomness import random_state, seed_all, set_random_state
from coopinit_plugin.method import balance, distance, energy_mode, iteration, memory, slower_generator
from coopinit_plugin.method.ensemble import Ensemble
from coopinit_plugin.method.kept import write
from coopinit_plugin.method.pair import Team
from coopinit_plugin.method.stopping import GOAL, SPAN, Plateau
from coopinit_plugin.nests import move
from coopinit_plugin.result.step_report import StepReport
from coopinit_plugin.result.words import standing

logger = logging.getLogger(__name__)

BLIND_ITERATIONS = 10  # iterations that D's gradient may be exactly zero, as with a last layer that starts at zero


@dataclass(frozen=True)
class Stage:
    """What the call asks for, and where it runs."""

    config: WarmStartConfig
    run: Engine
    checkpoints: Checkpoints
    callback: Callable[[StepReport], bool | None] | None
    shown: bool  # whether there is a bar
    began: float = field(default_factory=time.perf_counter)


class State:
    """Everything that moves in a warm-up, as it is at the start, or as the checkpoint `saved` holds it."""

    def __init__(self, ensemble: Ensemble, batches: Batches, stage: Stage, saved: dict[str, Any] | None) -> None:
        config, run, pair = stage.config, stage.run, ensemble.pair
        self.stage, self.ensemble, self.pair, self.batches = stage, ensemble, pair, batches
        own = {"G": pair.G, "D": ensemble.members[0].D}
        self.identity = identity(config, run.processes, **own)  # the same in a run that goes on
        self.identity["number of the loader's own generators"] = len(batches.generators)
        if saved is not None:
            check_same(saved["identity"], self.identity, stage.checkpoints.path)
        pair.G.train()
        self.adam_g = Adam(trained(pair.G), lr=config.lr_generator, betas=config.betas)
        self.adam_d = Adam(trained(pair.D), lr=config.lr_discriminator, betas=config.betas)
        seed_all(config.seed, run.index)  # from here on each process draws its own noise
        team = Team(run.processes, run.index, run.gather, run.average)
        x, z, batch = pair.draw(batches.peek(), run.device)
        self._settle_d(team, x, z, batch)
        scale = saved["scale"] if saved is not None else spread(pair.real, batches.ahead(), team)
        keeps = needs_batch(partial(pair.score, x, z))
        places = max(memory.PLACES, math.ceil(memory.PAIRS / (len(tree_leaves(x)[0]) * team.count)))
        self.memory = memory.Memory(places, config.seed, team)
        self.step = balance.step_size(config.step_size, config.langevin_steps)
        self.settings = iteration.Settings(config.noise_scale, config.energy_l2, scale, team=team, keeps_batch=keeps)
        self.averaged = iteration.AveragedGenerator(pair.G, pair.D, config.averaging)
        self.plateau = Plateau(distance.SlicedWasserstein(x, scale), team)
        self.sizes = slower_generator.layer_sizes(pair.G)  # before the first iteration
        self.history: list[StepReport] = []
        self.best: list[Tensor] = []  # values of `handed_over` at the smallest distance so far
        self.since = time.perf_counter()  # when the first iteration began
        if saved is not None:
            with stage.checkpoints.reading():
                if saved["ensemble"]:
                    self.call_ensemble(x, z, batch)
                stream, numbers = self._load(saved, memory.Chains(z, batch if keeps else None, pair.mask(x), x))
            self.batches.load_state_dict(stream)
            set_random_state(numbers, self.batches.generators)  # the last, for data were drawn
        elif run.any(stage.checkpoints.due)[0]:
            stage.checkpoints.write(self.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Everything, of all processes; every process has to ask for it."""
        own = {name: getattr(self, name).state_dict() for name in ("batches", "plateau", "memory")}
        own["randomness"] = random_state(self.batches.generators)
        own["buffers"] = self.buffers
        return {
            "identity": self.identity,
            "processes": self.stage.run.gather_objects(own),
            "weights": self.weights,
            "adam_g": self.adam_g.state_dict(),
            "adam_d": self.adam_d.state_dict(),
            "step": (self.step.size, self.step.pace),
            "ensemble": self.ensemble.called,
            "scale": self.settings.scale,
            "sizes": self.sizes,
            "history": [vars(row) for row in self.history],
            "best": self.best,
        }

    def _load(self, saved: dict[str, Any], like: memory.Chains) -> tuple[dict[str, Any], dict[str, Any]]:
        """Go on from there, `like` being chains of the same form; gives what data and generators go on from."""
        own = saved["processes"][self.stage.run.index]
        write(self.buffers + self.weights, own["buffers"] + saved["weights"])
        self.adam_g.load_state_dict(saved["adam_g"])
        self.adam_d.load_state_dict(saved["adam_d"])
        self.step.size, self.step.pace = saved["step"]
        self.sizes, self.best = saved["sizes"], saved["best"]
        self.history = [StepReport(**row) for row in saved["history"]]
        self.since -= self.history[-1].seconds if self.history else 0
        self.plateau.load_state_dict(move(own["plateau"], self.stage.run.device))
        self.memory.load_state_dict(own["memory"], like)
        return own["batches"], own["randomness"]

    def call_ensemble(self, x: Any, z: Any, batch: Any) -> None:
        """Let D's copies take part from now on."""
        self.ensemble.called = True
        self.pair = self.ensemble.pair
        self._settle_d(self.settings.team, x, z, batch)
        copies = [parameter for member in self.ensemble.members[1:] for parameter in trained(member.D)]
        self.adam_d.add_param_group({"params": copies})

    def _settle_d(self, team: Team, x: Any, z: Any, batch: Any) -> None:
        """Make D, as it takes part from now on, ready for the first iteration."""
        energy_mode.likelihood_mode(self.pair.D)
        score = partial(self.pair.score, x, z, batch)
        lay_out(self.pair.D, score, x)
        if self.stage.config.most_iterations:  # the hand-over alone leaves D's buffers as they are
            energy_mode.settle(self.pair.D, score, team=team)

    @property
    def weights(self) -> list[Tensor]:
        """The live parameters of both networks, and the running means of G's."""
        return [*self.pair.G.parameters(), *self.pair.D.parameters(), *self.averaged.tensors]

    @property
    def buffers(self) -> list[Tensor]:
        """The live buffers of both networks."""
        return [*self.pair.G.buffers(), *self.pair.D.buffers()]

    @property
    def handed_over(self) -> list[Tensor]:
        """The live tensors that are handed over: of G's weights the running means, if there are some."""
        G, D = self.pair.G, self.ensemble.members[0].D
        return [*G.buffers(), *tensors_of(D).values(), *(self.averaged.tensors or G.parameters())]

    def return_to_best(self) -> float | None:
        """Go back to the best moment if it has passed; the distance of the weights that are handed over."""
        plateau = self.plateau
        if not self.best or not plateau.past_its_best:
            return plateau.last
        if plateau.verdict == "worse":
            told = "The distance to the data rose to %.3g σ after %.3g σ: the warm-up ends here, at its best moment."
            logger.warning(told, plateau.last, plateau.best)
        write(self.handed_over, self.best)
        return plateau.best


def iterate(state: State, step_seconds: float) -> str:
    """Run cooperative iterations until the stop, and give its reason; `step_seconds` is the cost's unit on the bar."""
    stage, plateau, history = state.stage, state.plateau, state.history
    config, run, most = stage.config, stage.run, stage.config.most_iterations
    goal = GOAL if config.iterations == "auto" else None
    with tqdm(bar_format="{desc}", mininterval=1, disable=not stage.shown) as bar:
        while len(history) < most:
            report = _iteration(state)
            width = getattr(bar, "ncols", None)  # a bar that is not shown has none
            bar.set_description_str(standing(history, most, goal, step_seconds, width), refresh=False)
            bar.update()
            late = time.perf_counter() - stage.began > (config.max_seconds or math.inf)
            with torch.enable_grad():  # which the callback may have turned off for good
                stopped = stage.callback is not None and stage.callback(report) is False
            stopped, late, due = run.any(stopped, late, stage.checkpoints.due)
            if stopped:
                return "callback"
            if goal and plateau.at_best:
                state.best = [tensor.detach().clone() for tensor in state.handed_over]
            if goal and plateau.verdict is not None:
                return plateau.verdict
            if late:
                return "max_seconds"
            if due:
                stage.checkpoints.write(state.state_dict())
    return "max_iterations" if goal else "iterations"


def _iteration(state: State) -> StepReport:
    """Run one iteration and report it."""
    config, pair, step, plateau, history = state.stage.config, state.pair, state.step, state.plateau, state.history
    number = len(history) + 1
    real = pair.draw(next(state.batches), state.stage.run.device)
    for group in state.adam_d.param_groups:
        group["lr"] = config.lr_discriminator * (step.pace if config.langevin_steps == "auto" else 1)
    lag = history[-1].displacement ** 2 if history else 0.0, plateau.last or 0.0
    fake, found = iteration.cooperate(pair, state.memory, real, step, state.settings, state.adam_g, state.adam_d, *lag)
    state.averaged.update(number)

    found = found.read(state.settings.team)
    told = {name: getattr(found, name) for name in ("real", "refined", "score_std", "displacement")}
    if not all(map(math.isfinite, told.values())):
        check_finite(real[0], f"Iteration {number}")
        logits = f"D's logits of real samples are {found.real:.3g} in the mean, of refined ones {found.refined:.3g}"
        raise diverged(f"Iteration {number} is not finite any more: {logits}.", config)
    if step.size is None and number >= BLIND_ITERATIONS:
        raise CoopInitError(
            f"D's gradient with respect to its input was exactly zero in {number} iterations: the chain cannot move. "
            "Does D round it, or is a layer dead? Give another score, adapter=coopinit_plugin.Adapter(score=...)."
        )
    told |= {"iteration": number, "step_size": step.size or 0.0, "langevin_steps": step.steps}
    step.update(found.real - found.refined, found.score_std, found.drift)
    judged = plateau.observe(real[0], fake) and len(plateau.readings) >= SPAN
    if judged and state.ensemble.is_needed(found.displacement**2, plateau.readings[-1]):
        state.call_ensemble(*real)
        logger.info("D alone does not lead the chains to the data: %d copies help.", len(state.ensemble.members) - 1)
    report = StepReport(distance=plateau.last, seconds=time.perf_counter() - state.since, **told)
    history.append(report)
    return report


def diverged(what: str, config: WarmStartConfig) -> CoopInitError:
    """The error for numbers that are not finite any more."""
    return CoopInitError(
        f"{what} Your networks are untouched. Try WarmStartConfig(lr_discriminator={config.lr_discriminator / 4:g}, "
        f"lr_generator={config.lr_generator / 4:g}, energy_l2={max(config.energy_l2, 0.1) * 10:g}), fewer Langevin "
        'steps, or step_size="balanced" if it is fixed. A square root or a division without an epsilon gives such '
        "gradients, too."
    )
