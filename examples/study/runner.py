"""Many runs, each in a fresh process of one thread, a few at a time; what has its row is not repeated."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from examples.study.arms import ARMS
from examples.study.cost import DEVICE
from examples.study.plans import LONG, Plan
from examples.study.table import Table

FIRST_USED = ("accelerate", "torch._dynamo")  # which the first warm-up and the first optimizer of a process import


class Queue:
    """What is still to do, in an order in which everything a run needs is there before it.

    A pretraining of G costs what the warm-up cost, so it waits for the run "ours".

    Args:
        todo: The runs; those that others wait for are added.
        folder: Of the tables.
        scale: ``"full"`` or ``"quick"``.
    """

    def __init__(self, todo: list[Plan], folder: Path, scale: str) -> None:
        self.folder, self.scale = folder, scale
        self.done = {part: _by_key(part, folder) for part in {plan.part for plan in todo}}
        wanted = dict.fromkeys(step for plan in todo for step in ([_ours(plan), plan] if _waits(plan) else [plan]))
        self.runs = [plan for plan in wanted if plan.key not in self.done[plan.part]]
        self.total = len(self.runs)

    def next(self) -> tuple[Plan, float] | None:
        """(What, the cost of its start where that is given); ``None`` where nothing can be begun now."""
        for index, plan in enumerate(self.runs):
            ours = self.done[plan.part].get(_ours(plan).key)
            if ours or not _waits(plan):
                return self.runs.pop(index), float(ours["warm_cost"]) if ours and _waits(plan) else 0.0
        return None

    def finish(self, plan: Plan) -> dict[str, str] | None:
        """The row that a process has written, if it has."""
        self.done[plan.part] = _by_key(plan.part, self.folder)
        return self.done[plan.part].get(plan.key)


def run_all(todo: list[Plan], folder: Path, jobs: int, scale: str) -> None:
    """Run what has no row yet, `jobs` processes at a time; leave by SystemExit where some could not be run."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver" if DEVICE.type == "cpu" else "spawn")  # CUDA bears no fork
    context.set_forkserver_preload(["examples.study.once", *FIRST_USED])
    queue, began = Queue(todo, folder, scale), time.monotonic()
    running: dict[BaseProcess, Plan] = {}
    ended = failed = 0
    while True:
        while len(running) < jobs and (job := queue.next()):
            process = context.Process(target=_once, args=(*job, folder, scale), daemon=True)
            process.start()
            running[process] = job[0]
        if not running:
            break
        wait([process.sentinel for process in running])
        for process in [process for process in running if not process.is_alive()]:
            plan = running.pop(process)
            row = queue.finish(plan)
            if process.exitcode or row is None:
                failed += 1
                print(f"exit status {process.exitcode}, nothing written: {plan}", flush=True)
                continue
            ended += 1
            minutes, score = (time.monotonic() - began) / 60, row["modes"] or row["distance"]
            print(f"{ended}/{queue.total}  {minutes:.0f} min  {plan}: {score} {row['status']}", flush=True)
    if failed or queue.runs:
        raise SystemExit(f"{queue.total - ended} runs have no row: see above; the same command tries them again")


def _waits(plan: Plan) -> bool:
    return ARMS[plan.arm].needs_ours


def _ours(plan: Plan) -> Plan:
    return Plan(plan.part, plan.setting, "ours", plan.seed)


def _by_key(part: str, folder: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    return {(row["setting"], row["arm"], row["seed"]): row for row in Table(folder / f"{part}.csv").rows()}


def _once(plan: Plan, start_cost: float, folder: Path, scale: str) -> None:
    from examples.study import once

    how_large = once.SCALES["long" if scale == "full" and plan.part in LONG else scale]
    Table(folder / f"{plan.part}.csv").append(once.once(plan, start_cost, how_large))
