"""Many runs, each in a fresh process of one thread, a few at a time; what has its row is not repeated."""

from __future__ import annotations

import multiprocessing
import os
import time
from multiprocessing.connection import wait
from pathlib import Path

from examples.study.arms import ARMS
from examples.study.plans import Plan, Setting
from examples.study.table import BUDGET_COLUMNS, Table

BUDGETS = "budgets.csv"
FIRST_USED = ("accelerate", "torch._dynamo")  # which the first warm-up and the first optimizer of a process import


def budgets(folder: Path) -> Table:
    return Table(folder / BUDGETS, BUDGET_COLUMNS)


def run_all(todo: list[Plan], folder: Path, jobs: int, scale: str) -> None:
    """Run what has no row yet.

    Args:
        todo: The runs; those that another one waits for may be missing, and are added.
        folder: Of the tables.
        jobs: Processes at a time.
        scale: ``"full"`` or ``"quick"``.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["examples.study.once", *FIRST_USED])
    tables = {plan.part: Table(folder / f"{plan.part}.csv") for plan in todo}
    todo = [*dict.fromkeys(step for plan in todo for step in ([_ours(plan)] if _needs_ours(plan) else []) + [plan])]
    done = {part: _by_key(table) for part, table in tables.items()}
    todo = [plan for plan in todo if plan.key not in done[plan.part]]
    known = {row["cost"]: float(row["seconds"]) for row in budgets(folder).rows()}
    uncalibrated = [*{plan.setting.cost: plan.setting for plan in todo if plan.setting.cost not in known}.values()]
    total, failed, began = len(todo), 0, time.monotonic()
    running: dict[multiprocessing.process.BaseProcess, Plan | Setting] = {}
    given_up: set[Plan] = set()

    def next_job() -> Plan | Setting | None:
        if uncalibrated:
            return uncalibrated.pop(0)
        for index, plan in enumerate(todo):
            if plan.setting.cost not in known:
                continue
            if not _needs_ours(plan) or _ours(plan).key in done[plan.part]:
                return todo.pop(index)
            if _ours(plan) in given_up:
                given_up.add(todo.pop(index))
                return next_job()
        return None

    while True:
        while len(running) < jobs and (job := next_job()) is not None:
            if isinstance(job, Setting):
                process = context.Process(target=_calibrate, args=(job, folder, scale), daemon=True)
            else:
                seconds = 0.0
                if _needs_ours(job):
                    seconds = float(done[job.part][_ours(job).key]["warm_seconds"] or 0)
                arguments = (job, known[job.setting.cost], seconds, folder, scale)
                process = context.Process(target=_once, args=arguments, daemon=True)
            process.start()
            running[process] = job
        if not running:
            break
        wait([process.sentinel for process in running])
        for process in [process for process in running if not process.is_alive()]:
            process.join()
            job = running.pop(process)
            if process.exitcode:
                failed += 1
                print(f"failed, exit status {process.exitcode}, no row: {job}", flush=True)
            if isinstance(job, Setting):
                known = {row["cost"]: float(row["seconds"]) for row in budgets(folder).rows()}
            elif process.exitcode:
                given_up.add(job)
            else:
                done[job.part] = _by_key(tables[job.part])
                row = done[job.part][job.key]
                left = len(todo) + sum(isinstance(other, Plan) for other in running.values())
                minutes = (time.monotonic() - began) / 60
                score = row["modes"] or row["distance"]
                print(f"{total - left}/{total}  {minutes:.0f} min  {job}: {score} ({row['status'][:60]})", flush=True)
    if failed or todo or given_up:
        raise SystemExit(f"{failed} processes failed, {len(todo) + len(given_up)} runs have no row; run again")


def _needs_ours(plan: Plan) -> bool:
    return ARMS[plan.arm].needs_ours


def _ours(plan: Plan) -> Plan:
    return Plan(plan.part, plan.setting, "ours", plan.seed)


def _by_key(table: Table) -> dict[tuple[str, str, str], dict[str, str]]:
    return {(row["setting"], row["arm"], row["seed"]): row for row in table.rows()}


def _calibrate(setting: Setting, folder: Path, scale: str) -> None:
    from examples.study import once

    seconds = once.seconds_of_a_budget(setting, getattr(once, scale.upper()))
    budgets(folder).append({"cost": setting.cost, "seconds": f"{seconds:.3f}"})


def _once(plan: Plan, budget: float, start_seconds: float, folder: Path, scale: str) -> None:
    from examples.study import once

    row = once.once(plan, budget, start_seconds, getattr(once, scale.upper()))
    Table(folder / f"{plan.part}.csv").append(row)
