"""The small trial before the investment: the user's own step from three starts, at the same cost, and what to do."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils._pytree import tree_leaves, tree_map
from tqdm.auto import tqdm

from coopinit_plugin.calling.adapter import Adapter
from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.errors import CoopInitError
from coopinit_plugin.first_look import inspect, settings
from coopinit_plugin.host.randomness import borrowed_randomness
from coopinit_plugin.method.kept import kept
from coopinit_plugin.result.provenance import pack, preview
from coopinit_plugin.trial.asked import FEWEST_STEPS, checked_seeds
from coopinit_plugin.trial.data import parted
from coopinit_plugin.trial.drawing import matplotlib_is_there
from coopinit_plugin.trial.gauge import REPORT, Clock, Plan, TimeLeft
from coopinit_plugin.trial.making import check_make, made
from coopinit_plugin.trial.measures import FEWEST, Features, Measured, Measures
from coopinit_plugin.trial.report import PilotReport
from coopinit_plugin.trial.run import ARMS, Diverged, run_once, trained
from coopinit_plugin.trial.store import Store
from coopinit_plugin.warmup import warm_start

BAR = "{desc} {percentage:3.0f} % |{bar}| {elapsed}, {remaining} left{postfix}"
READING = 0.1  # of the minutes may go into reading the data


def pilot(
    make: Callable[[int], tuple[Any, ...]],
    loader: Iterable[Any],
    train_step: Callable[..., Any],
    *,
    minutes: float | None = None,
    iterations: int | None = None,
    seeds: int | Sequence[int] = 5,
    handover: str | None = None,
    config: WarmStartConfig | None = None,
    adapter: Adapter | None = None,
    features: Features | None = None,
    output_dir: str | Path | None = None,
    resume: bool = False,
    progress: bool = True,
) -> PilotReport:
    """Try out on your own code whether a warm start is worth it: the small trial before the investment.

    Your own adversarial step runs from a random start, after the hand-over alone, and after a warm start, in turn for
    each seed, at the same total cost with the warm-up counted in. Samples are measured against real ones that are held
    back. Data are read once (at most 50,000 samples or 1 GiB) and kept in memory. Every random generator and the loader
    are as before at the end.

    Args:
        make: ``(seed) -> (G, D)``, or ``(G, D, ...)`` with what `train_step` takes after the batch: optimizers,
            averaged copies of G. Called anew for each run.
        loader: Any iterable of batches, of at least 128 samples.
        train_step: ``(G, D, batch, ...) -> losses``, one iteration of your loop. Losses, in any nest, are looked at for
            NaN only.
        minutes: Of the whole pilot. Every run of a seed gets the same seconds.
        iterations: Instead of `minutes`: adversarial iterations of a random start. A cooperative iteration counts as 2,
            a hand-over as 8, so that the same seeds give the same runs on a busy machine, too.
        seeds: How many, or which.
        handover: Which adversarial loss follows, as for :func:`coopinit_plugin.warm_start`.
        config: Settings of the warm-up, which takes half of a run's budget at most.
        adapter: How G and D are called; what it leaves out is inferred.
        features: ``(x) -> (N, d)``: neighbours and diversity are measured there instead of on principal components.
        output_dir: Every run is kept there as soon as it has ended, and the report at the end: report.html, pilot.csv,
            pilot.png.
        resume: Go on with the runs that `output_dir` lacks.
        progress: Show a progress bar with the remaining time.

    Returns:
        The runs, the verdict in words, tables and pictures; ``print`` it. Of images the table has FID, too, if
        torch-fidelity is installed and there is a GPU.

    Raises:
        CoopInitError: for whatever is wrong with the input, before the first run; what fails in one run is part of the
            report, and the other runs go on.

    Example:
        >>> def make(seed):  # doctest: +SKIP
        ...     torch.manual_seed(seed)
        ...     G, D = Generator().to(device), Discriminator().to(device)
        ...     return G, D, Adam(G.parameters(), 2e-4), Adam(D.parameters(), 2e-4)
        >>> def train_step(G, D, batch, opt_g, opt_d):  # doctest: +SKIP
        ...     real = batch[0].to(device)
        ...     fake = G(torch.randn(len(real), 100, device=device))
        ...     loss_d = softplus(-D(real)).mean() + softplus(D(fake.detach())).mean()
        ...     opt_d.zero_grad(); loss_d.backward(); opt_d.step()
        ...     loss_g = softplus(-D(fake)).mean()
        ...     opt_g.zero_grad(); loss_g.backward(); opt_g.step()
        ...     return loss_d, loss_g
        >>> report = coopinit_plugin.pilot(make, loader, train_step, minutes=10, seeds=5)  # doctest: +SKIP
        >>> print(report)  # doctest: +SKIP
        >>> report.save("pilot/")  # doctest: +SKIP
    """
    config = settings(config, handover, adapter, output_dir, resume)
    chosen = checked_seeds(make, train_step, minutes, iterations, seeds)
    store = Store(output_dir, resume, chosen, {**asdict(config), "iterations": iterations})
    time_left = TimeLeft(minutes, sum(run.seconds + run.measuring for run in store.runs))
    if output_dir is not None:
        matplotlib_is_there()  # imported now, while there is time for it
    with torch.inference_mode(False), torch.enable_grad(), borrowed_randomness(0, loader):
        data, held = parted(loader, READING * 60 * (minutes or 10))
        plan, real, samples = _planned(
            make, train_step, chosen[0], data, held, config, adapter, features, not iterations
        )
        check_make(make, chosen[0])
        step = _rehearsed(plan, chosen[0])
        with _quiet():
            _run_all(plan, store, chosen, iterations, time_left, step, progress)
    report = PilotReport(tuple(store.runs), config, real, time_left.spent, samples)
    if output_dir is not None:
        report.save(output_dir)
    return report


def _run_all(
    plan: Plan,
    store: Store,
    seeds: list[int],
    iterations: int | None,
    time_left: TimeLeft,
    step: float,
    progress: bool,
) -> None:
    """The runs that are not there yet, in turn."""
    arms = ARMS if plan.config.iterations != 0 else ARMS[:2]
    with tqdm(total=len(seeds) * len(arms), desc="Pilot", bar_format=BAR, smoothing=0, disable=not progress) as bar:
        for index, seed in enumerate(seeds):
            there = {run.arm: run.budget for run in store.runs if run.seed == seed}
            shared = len(arms) * (len(seeds) - index) - len(there)
            budget = float(iterations or time_left.for_runs / max(shared, 1))
            if not store.runs and not iterations and budget < FEWEST_STEPS * step:
                least = (time_left.spent + 1.3 * FEWEST_STEPS * step * shared + REPORT) / 60
                raise CoopInitError(
                    f"train_step takes {step:.2g} s, but a run has {max(budget, 0):.2g} s, for {len(arms)} starts with "
                    f"{len(seeds)} seeds share the time. Give at least minutes={least:.2g}, or fewer seeds."
                )
            budget = next(iter(there.values()), max(budget, FEWEST_STEPS * step))  # equal for all of a seed
            for arm in (arm for arm in arms if arm not in there):
                bar.set_postfix_str(f"seed {seed}, {arm}")
                done = len(store.runs)

                def show(share: float, done: int = done) -> None:
                    bar.update(done + min(share, 1.0) - bar.n)

                began = time_left.spent
                store.keep(run_once(plan, arm, seed, budget, show))
                time_left.learn(store.runs[-1].seconds, time_left.spent - began)
                show(1.0)


def _planned(
    make: Callable[[int], tuple[Any, ...]],
    train_step: Callable[..., Any],
    seed: int,
    data: Any,
    held: list[Any],
    config: WarmStartConfig,
    given: Adapter | None,
    features: Features | None,
    by_clock: bool,
) -> tuple[Plan, Measured, Any]:
    """What all runs have in common, what real samples score, and a few of them for pictures."""
    G, D, *_ = made(make, seed)
    found = inspect(G, D, held[:1], adapter=given)
    assert found.real is not None
    xs = [found.real(batch) for batch in held]
    x = tree_map(lambda *leaves: torch.cat(leaves), *xs)
    half = len(tree_leaves(x)[0]) // 2
    if half < FEWEST:
        raise CoopInitError(
            f"Only {2 * half} samples can be held back; expected at least {2 * FEWEST}. Give more data."
        )
    first, other = (tree_map(lambda leaf, part=part: leaf[part], x) for part in (slice(half), slice(half, 2 * half)))
    measures = Measures(first, features)
    with torch.no_grad():
        real = measures(other)
    plan = Plan(make, train_step, data, held, found, given, measures, first, config, by_clock)
    return plan, real, pack(x=preview(first)).get("x")


def _rehearsed(plan: Plan, seed: int) -> float:
    """Seconds of one adversarial iteration, after everything has been used once; mistakes come to light here."""
    clock = Clock(math.inf, by_clock=True)
    G, D, *rest = made(plan.make, seed)
    before = 0.0
    try:
        for iteration in trained(plan, G, D, rest, clock):
            if iteration == 3:
                break
            before = clock.seconds
    except (Diverged, CoopInitError) as error:
        raise CoopInitError(f"{error}. Nothing has been run yet.") from error
    except Exception as error:
        raise CoopInitError(
            f"train_step failed: {type(error).__name__}: {error}. It is called train_step(G, D, batch, ...), with what "
            "make returns after G and D, on the networks that make has just made."
        ) from error
    G, D, *_ = made(plan.make, seed)
    once = replace(plan.config, iterations=min(1, plan.config.most_iterations))
    warm_start(G, D, plan.data, config=once, adapter=plan.given, progress=False)
    return clock.seconds - before


@contextmanager
def _quiet() -> Iterator[None]:
    """Warm-ups have said in the rehearsal what they have to say."""
    log = logging.getLogger("coopinit_plugin")
    with kept(partial(log.setLevel, log.level)):
        log.setLevel(logging.ERROR)
        yield
