"""Many runs, each in a fresh process of one thread, a few at a time; what has its row is not repeated."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from examples.study.arms import ARMS
from examples.study.plans import Plan, Setting
from examples.study.table import BUDGET_COLUMNS, Table

BUDGETS = "budgets.csv"
FIRST_USED = ("accelerate", "torch._dynamo")  # which the first warm-up and the first optimizer of a process import


class Queue:
    """What is still to do, in an order in which everything a run needs is there before it.

    The budgets come first. A pretraining of G takes the warm-up's seconds, so it waits for the run "ours".

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
        self.budgets = _budgets(folder)
        missing = {plan.setting.cost: plan.setting for plan in self.runs if plan.setting.cost not in self.budgets}
        self.settings = list(missing.values())

    def next(self) -> tuple[Plan | Setting, Callable[..., None], tuple] | None:
        """(What, the function to run, its arguments); ``None`` where nothing can be begun now."""
        if self.settings:
            setting = self.settings.pop(0)
            return setting, _calibrate, (setting, self.folder, self.scale)
        for index, plan in enumerate(self.runs):
            ours = self.done[plan.part].get(_ours(plan).key)
            if plan.setting.cost in self.budgets and (ours or not _waits(plan)):
                seconds = float(ours["warm_seconds"]) if ours and _waits(plan) else 0.0
                budget = self.budgets[plan.setting.cost]
                return self.runs.pop(index), _once, (plan, budget, seconds, self.folder, self.scale)
        return None

    def finish(self, job: Plan | Setting) -> None:
        """Take note of what a process has written."""
        if isinstance(job, Setting):
            self.budgets = _budgets(self.folder)
        else:
            self.done[job.part] = _by_key(job.part, self.folder)


def run_all(todo: list[Plan], folder: Path, jobs: int, scale: str) -> None:
    """Run what has no row yet, `jobs` processes at a time; leave by SystemExit where some could not be run."""
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["examples.study.once", *FIRST_USED])
    queue, began = Queue(todo, folder, scale), time.monotonic()
    running: dict[BaseProcess, Plan | Setting] = {}
    ended = failed = 0
    while True:
        while len(running) < jobs and (job := queue.next()):
            process = context.Process(target=job[1], args=job[2], daemon=True)
            process.start()
            running[process] = job[0]
        if not running:
            break
        wait([process.sentinel for process in running])
        for process in [process for process in running if not process.is_alive()]:
            job_ended = running.pop(process)
            queue.finish(job_ended)
            failed += bool(process.exitcode)
            if process.exitcode:
                print(f"exit status {process.exitcode}, nothing written: {job_ended}", flush=True)
            elif isinstance(job_ended, Plan):
                ended += 1
                row = queue.done[job_ended.part][job_ended.key]
                minutes, score = (time.monotonic() - began) / 60, row["modes"] or row["distance"]
                print(f"{ended}/{queue.total}  {minutes:.0f} min  {job_ended}: {score} {row['status']}", flush=True)
    if failed or queue.runs:
        raise SystemExit(f"{queue.total - ended} runs have no row: see above; the same command tries them again")


def _waits(plan: Plan) -> bool:
    return ARMS[plan.arm].needs_ours


def _ours(plan: Plan) -> Plan:
    return Plan(plan.part, plan.setting, "ours", plan.seed)


def _by_key(part: str, folder: Path) -> dict[tuple[str, str, str], dict[str, str]]:
    return {(row["setting"], row["arm"], row["seed"]): row for row in Table(folder / f"{part}.csv").rows()}


def _budgets(folder: Path) -> dict[str, float]:
    return {row["cost"]: float(row["seconds"]) for row in Table(folder / BUDGETS, BUDGET_COLUMNS).rows()}


def _calibrate(setting: Setting, folder: Path, scale: str) -> None:
    from examples.study import once

    seconds = once.seconds_of_a_budget(setting, once.SCALES[scale])
    Table(folder / BUDGETS, BUDGET_COLUMNS).append({"cost": setting.cost, "seconds": f"{seconds:.3f}"})


def _once(plan: Plan, budget: float, start_seconds: float, folder: Path, scale: str) -> None:
    from examples.study import once

    row = once.once(plan, budget, start_seconds, once.SCALES[scale])
    Table(folder / f"{plan.part}.csv").append(row)
