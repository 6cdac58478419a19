"""Run every codebase of the survey: found out, warmed up, and trained on as in its own loop.

``python -m tests.upstream.survey CHECKOUTS`` prints the table of ``SURVEY.md``. CHECKOUTS holds one folder a codebase,
``owner+name``, at the commit named; those that are missing are left out. Beside this library some need torchvision,
einops, scipy or pandas to be imported.
"""

from __future__ import annotations

import argparse
import contextlib
import copy
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

import coopinit_plugin
from coopinit_plugin import Adapter, CoopInitError, WarmStartConfig
from coopinit_plugin.calling.adapter import fresh
from coopinit_plugin.host.copies import copies
from coopinit_plugin.method import hand_over as fitting
from coopinit_plugin.method.pair import per_sample
from tests.upstream import famous, further, images, sequences, sets, translation
from tests.upstream.entry import Upstream

CODEBASES = [
    *famous.ENTRIES,
    *images.ENTRIES,
    *translation.ENTRIES,
    *sequences.ENTRIES,
    *sets.ENTRIES,
    *further.ENTRIES,
]
CONFIG = WarmStartConfig(iterations=10)
PASSES = 3
fitting.SAMPLES = fitting.FEWEST = 32  # the hand-over is whole, on a thirtieth of the samples


class Counter:
    """Forward passes of whole networks, on whatever copies."""

    def __init__(self, *networks: nn.Module) -> None:
        self.classes = {type(network) for network in networks}
        self.counts = dict.fromkeys(self.classes, 0)

    def __enter__(self) -> Counter:
        self._call = nn.Module.__call__

        def counting(module: nn.Module, *args: Any, **kwargs: Any) -> Any:
            if type(module) in self.classes:
                self.counts[type(module)] += 1
            return self._call(module, *args, **kwargs)

        nn.Module.__call__ = counting  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        nn.Module.__call__ = self._call  # type: ignore[method-assign]


def differences(entry: Upstream, found: Adapter, G: nn.Module, D: nn.Module, batch: Any) -> list[str]:
    """Where what was found differs from the truth: nothing, if all is right."""
    wrong = []
    x, mine = entry.real(batch), found.real(batch)  # type: ignore[misc]
    if not _same(x, mine):
        wrong.append("data")
    n = tree_leaves(x)[0].shape[0]
    torch.manual_seed(0)
    z = entry.latent(n, batch)
    torch.manual_seed(0)
    ours = found.latent(n, torch.device("cpu"), batch)  # type: ignore[misc]
    if not _alike(_tensors(z), _tensors(ours)):
        return [*wrong, "latent"]
    D = copies(G, D)[1].eval()
    with torch.no_grad():
        torch.manual_seed(1)
        fake = entry.generate(copies(G, D)[0].train(), fresh(z), batch)
        torch.manual_seed(1)
        theirs = found.generate(copies(G, D)[0].train(), fresh(ours))  # type: ignore[misc]
        if [part.shape for part in _tensors(fake)] != [part.shape for part in _tensors(theirs)] or (
            _alike_exactly(z, ours) and not _same(fake, theirs)
        ):
            wrong.append("sample")
        torch.manual_seed(2)
        f = per_sample(entry.logit(copies(G, D)[1].eval(), copy.deepcopy(x), batch), n)
        torch.manual_seed(2)
        score = per_sample(found.score(copies(G, D)[1].eval(), copy.deepcopy(mine), fresh(ours), batch), n)  # type: ignore[misc]
    if f.mean().sub(score.mean()).abs() > 1e-3 * f.abs().mean().clamp_min(1e-2) or (
        f.shape == score.shape and not torch.allclose(f, score, rtol=1e-3, atol=1e-4)
    ):
        wrong.append("score")
    if found.real_is_high is not entry.high:
        wrong.append("sign")
    return wrong


def _tensors(nest: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(nest) if isinstance(leaf, Tensor)]


def _same(a: Any, b: Any) -> bool:
    ours, theirs = _tensors(a), _tensors(b)
    return len(ours) == len(theirs) and all(
        p.shape == q.shape and torch.allclose(p.double(), q.double(), atol=1e-5)
        for p, q in zip(ours, theirs, strict=True)
    )


def _alike_exactly(a: Any, b: Any) -> bool:
    return _same([part.squeeze() for part in _tensors(a)], [part.squeeze() for part in _tensors(b)])


def _alike(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    """The same shapes but for dimensions of size 1, and the same spread."""
    if [part.squeeze().shape for part in ours] != [part.squeeze().shape for part in theirs]:
        return False
    for p, q in zip(ours, theirs, strict=True):
        if p.is_floating_point() is not q.is_floating_point():
            return False
        if p.numel() > 1 and (p.double().std() - q.double().std()).abs() > 5 * p.double().std() / p.numel() ** 0.5:
            return False
    return True


def adversarial(entry: Upstream, G: nn.Module, D: nn.Module, batch: Any) -> list[str]:
    """Three steps of the codebase's own loop on the warm weights; what is wrong with them."""
    for network in (G, D):
        network.requires_grad_(True).train()
    adam_g, adam_d = (torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in (G, D))
    for _ in range(3):
        torch.manual_seed(0)
        x = copy.deepcopy(entry.real(batch))
        n = tree_leaves(x)[0].shape[0]
        fake = entry.generate(G, entry.latent(n, batch), batch)
        still = tree_map(lambda leaf: leaf.detach().clone() if isinstance(leaf, Tensor) else leaf, fake)
        f_real, f_fake = entry.logit(D, x, batch), entry.logit(D, still, batch)
        adam_d.zero_grad()
        entry.d_loss(f_real, f_fake).backward()
        if not all(bool(torch.isfinite(p.grad).all()) for p in D.parameters() if p.grad is not None):
            return ["D's gradients"]  # zero they may be: a hinge that is satisfied
        adam_d.step()
        if entry.adapter and entry.given.after_d_step is not None:
            entry.given.after_d_step(D)
            if f_real.numel() > 1 and not entry.logit(D, copy.deepcopy(entry.real(batch)), batch).detach().std():
                return ["D is constant after the clip"]
        f_fake = entry.logit(D, fake, batch)
        adam_g.zero_grad()
        (-f_fake.mean() if entry.high else f_fake.mean()).backward()
        if not _finite(G):
            return ["G's gradients"]
        adam_g.step()
        for network in (G, D):
            for buffer in network.buffers():
                buffer.detach_()
    return []


def _finite(network: nn.Module) -> bool:
    gradients = [p.grad for p in network.parameters() if p.grad is not None]
    return all(bool(torch.isfinite(g).all()) for g in gradients) and any(bool(g.abs().sum() > 0) for g in gradients)


def run(entry: Upstream, folder: Path, adapter: Adapter | None) -> tuple[str, str]:
    """(Outcome, detail) of one codebase with or without its adapter."""
    torch.manual_seed(0)
    with contextlib.redirect_stdout(None):
        G, D, loader = entry.make(folder)
    batch = next(iter(loader))
    try:
        with Counter(G, D) as counter:
            found = coopinit_plugin.inspect(G, D, loader, adapter=adapter)
    except CoopInitError as error:
        return "refused", str(error)
    if max(counter.counts.values()) > PASSES:
        return "WRONG", f"{max(counter.counts.values())} passes"
    wrong = differences(entry, found, G, D, batch)
    if wrong:
        told = (wrong == ["sign"] and any("cannot know whether D is high" in text for text in found.warnings)) or (
            wrong == ["latent"] and "standard normal assumed" in str(found)
        )
        return ("assumed" if told else "WRONG"), ", ".join(wrong)
    try:
        coopinit_plugin.warm_start(G, D, loader, config=CONFIG, adapter=adapter, progress=False)
    except CoopInitError as error:
        return "refused later", str(error)
    wrong = adversarial(entry, G, D, batch)
    return ("WRONG", ", ".join(wrong)) if wrong else ("right", "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path, help="folder that holds one checkout a codebase, named owner+name")
    parser.add_argument("--only", default="", help="part of a repository's name")
    parser.add_argument("--verbose", action="store_true", help="print what was refused, too")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    if not torch.cuda.is_available():  # networks that call it in their forward
        torch.Tensor.cuda = lambda tensor, *_, **__: tensor  # type: ignore[method-assign]
    print("| codebase | pair | licence | told nothing | lines | with them |\n|---|---|---|---|---|---|")
    results = []
    for entry in CODEBASES:
        began = time.perf_counter()
        folder = asked.checkouts / entry.repo.replace("/", "+")
        if asked.only not in entry.repo + entry.name or not folder.is_dir():
            continue
        try:
            alone = run(entry, folder, None)
            helped = run(entry, folder, entry.given) if entry.adapter else alone
        except Exception as error:
            if asked.verbose:
                raise
            alone = helped = ("ERROR", f"{type(error).__name__}: {error}")
        results.append((entry, alone[0], helped[0]))
        alone_text = (
            f"{alone[0]} ({alone[1].splitlines()[0]})"
            if alone[1] and alone[0] not in ("right", "refused")
            else alone[0]
        )
        helped_text = f"{helped[0]} ({helped[1].splitlines()[0]})" if helped[1] else helped[0]
        print(
            f"| {entry.repo}@{entry.commit[:7]} | {entry.name} | {entry.licence or 'none seen'} | {alone_text} | "
            f"{entry.lines} | {helped_text} |",
            flush=True,
        )
        if asked.verbose:
            print(alone[1], f"\n{time.perf_counter() - began:.0f} s", file=sys.stderr)
    right = sum(helped == "right" and entry.lines <= 4 for entry, _, helped in results)
    wrong = sum("WRONG" in (alone, helped) for _, alone, helped in results)
    repos = len({entry.repo for entry, *_ in results})
    print(f"\n{len(results)} pairs of {repos} codebases: {right} right with at most 4 lines, {wrong} silently wrong.")


if __name__ == "__main__":
    main()
