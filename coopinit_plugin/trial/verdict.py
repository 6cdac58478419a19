"""What a pilot's runs say, with the uncertainty that few seeds leave."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from coopinit_plugin.config import WarmStartConfig
from coopinit_plugin.trial.comparison import SURE, Comparison, compare
from coopinit_plugin.trial.run import ARMS, LONGEST, Run

HEAVY = 0.2  # of the budget in the warm-up; a real run is longer
KINDS = {"better": "use", "worse": "harm", "perhaps": "unclear", "same": "no benefit"}
AS_GOOD = 0.98  # of the likeness at the random start's end: as good as that
LOSSES = {"collapsed": "collapsed", "far": "stayed far from the data", "diverged": "diverged", "refused": "was refused"}


@dataclass(frozen=True)
class Verdict:
    """What to do.

    Attributes:
        kind: "use", "hand-over", "no benefit", "harm", "unclear", or "nothing worked".
        words: The same as a sentence or two, with what it rests on.
        notes: What else is to be known, a sentence each.
    """

    kind: str
    words: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n".join([self.words, *(f"- {note}" for note in self.notes)])


def decide(runs: Sequence[Run], config: WarmStartConfig) -> Verdict:
    """Weigh the runs."""
    random, hand_over, warm = ARMS
    ours = warm if any(run.arm == warm for run in runs) else hand_over
    pays, hand, more = compare(runs, random, ours), compare(runs, random, hand_over), compare(runs, hand_over, ours)
    if not pays.of or not pays.of_other:
        return Verdict("nothing worked", _errors(runs) or "No run has come to its end.")
    if not any(run.usable for run in runs):
        words = f"No start came to anything here: {_lost(runs, random)}. {SHORT}"
        return Verdict("nothing worked", words, _notes(runs, ours))
    if hand.says == "better" and (more.says != "better" or ours == hand_over):
        kind, arm, seen = "hand-over", hand_over, hand
    else:
        kind, arm, seen = KINDS[pays.says], ours, pays
    share = median(run.warm_share for run in runs if run.arm == ours)
    if kind == "harm" and share > HEAVY and pays.fails_more > 1 - SURE:
        kind = "no benefit"  # its own cost is what the runs lack
    before, after = {
        "hand-over": (
            f"Hand-over alone does as much here, in {_seconds(runs, hand_over)}. ",
            f" Use `{_call(config, iterations=0)}`{_saving(hand)}.",
        ),
        "use": ("", f" Use `{_call(config)}`{_saving(pays)}."),
        "harm": ("", " Do not use it here."),
        "unclear": ("", " That may be chance: run more seeds."),
        "no benefit": (
            f"No measurable benefit; the warm-up cost {share:.0%} of the time. ",
            " It does not pay here.",
        ),
    }[kind]
    notes = _notes(runs, ours)
    if kind == "use" and hand.says == "better" and more.seeds > 1:
        part = (
            f"{hand.lost_by_other} of {hand.of_other} runs after it were lost, {pays.lost_by_other} of {pays.of_other}"
        )
        notes = (
            f"Hand-over alone does a part of it: {part} after a warm-up, which ends {_points(more.gain)} more like the "
            "data. In a longer run it may catch up.",
            *notes,
        )
    return Verdict(kind, f"{before}{_against(runs, seen, arm)}{after}", notes)


SHORT = "Give the runs more time (minutes= or iterations=), or mend the training first"


def _against(runs: Sequence[Run], seen: Comparison, arm: str) -> str:
    """What the comparison with the random start saw, as a sentence."""
    after = f"after a warm-up of {_seconds(runs, arm)}" if arm == ARMS[2] else "after the hand-over alone"
    words = []
    if seen.lost or seen.lost_by_other:
        lost = _lost(runs, ARMS[0] if seen.lost else arm)
        words.append(
            f"{lost[0].upper()}{lost[1:]}, in {seen.lost_by_other} of {seen.of_other} {after}."
            if seen.lost
            else f"No random start was lost, but {seen.lost_by_other} of {seen.of_other} runs {after}."
        )
    if seen.seeds > 1:
        sign, how = (1, "more") if seen.gain >= 0 else (-1, "less")
        low, high = sorted((sign * seen.low, sign * seen.high))
        words.append(
            f"Runs {after} end {_points(sign * seen.gain)} {how} like the data (90 % interval {100 * low:.0f} to "
            f"{100 * high:.0f}, {seen.seeds} seeds)."
        )
    return " ".join(words) or f"Only {seen.seeds} seed is usable in both."


def _points(likeness: float) -> str:
    """A difference of likeness, as it is said."""
    return f"{100 * likeness:.0f} points of 100"


def _lost(runs: Sequence[Run], arm: str) -> str:
    """How many runs were lost, and how: "in 5 of 5 seeds the random start collapsed"."""
    decided = [run for run in runs if run.arm == arm and run.decided]
    how = Counter(run.status for run in decided if not run.usable)
    verb = (
        LOSSES[next(iter(how))] if len(how) == 1 else "was lost (" + ", ".join(f"{n} {s}" for s, n in how.items()) + ")"
    )
    what = {"random": "the random start", "hand-over": "the run after the hand-over"}.get(arm, "the warm start")
    return f"in {sum(how.values())} of {len(decided)} seeds {what} {verb}"


def _saving(seen: Comparison) -> str:
    """Budget per usable run, the one over the other; shares by Laplace's rule, so that none is 0."""
    shares = [(of - lost + 1) / (of + 2) for lost, of in ((seen.lost, seen.of), (seen.lost_by_other, seen.of_other))]
    ratio = shares[1] / shares[0]
    return f"; expected saving per usable run {ratio:.1f}×" if ratio > 1.1 else ""


def _notes(runs: Sequence[Run], ours: str) -> tuple[str, ...]:
    notes = [_sooner(runs, ours), _errors(runs)]
    alarmed = Counter((run.arm, word) for run in runs for word in _alarms(run))
    notes += [
        f"{arm}: {word} in {count} of {sum(r.arm == arm for r in runs)} runs." for (arm, word), count in alarmed.items()
    ]
    spent = [sum(run.seconds for run in runs if run.arm == arm) for arm in (ARMS[0], ours)]
    if spent[0] and not 0.9 < spent[1] / spent[0] < 1.1 and all(run.decided for run in runs):
        notes.append(
            f"In seconds the runs of the {ours} took {spent[1] / spent[0]:.2f} times as long as random ones; minutes= "
            "compares by the clock."
        )
    if max((run.warm_share for run in runs if run.arm == ours), default=0) > LONGEST:
        notes.append("The warm-up was cut at half of the budget, which is short for it; in a longer run it costs less.")
    if memory := max((run.warm_memory or 0 for run in runs), default=0):
        notes.append(f"The warm-up took up to {memory / 2**30:.2f} GiB of the accelerator's memory.")
    return tuple(note for note in notes if note)


def _alarms(run: Run) -> set[str]:
    """Alarms of a run that are not in its status."""
    said = {word for reading in run.readings for word in reading.warnings}
    known = {"by heart": "D knew training samples by heart", "is dead": "D was dead"}
    return {name for key, name in known.items() if any(key in words for words in said)}


def _sooner(runs: Sequence[Run], ours: str) -> str:
    """At which share of its cost the warm start is as good as the random start's end."""
    shares = []
    for run in (run for run in runs if run.arm == ARMS[0] and run.usable):
        level = AS_GOOD * run.end("likeness")
        for other in (other for other in runs if other.arm == ours and other.seed == run.seed and other.usable):
            first, then = reached(run, level), reached(other, level)
            shares += [then / first] if first and then else []
    if not shares or not 0.05 < (share := median(shares)) < 0.8:
        return ""
    end = f"at {share:.0%} of the cost (median of {len(shares)} seeds)"
    return f"It is as much like the data as the random start's end {end}."


def reached(run: Run, level: float) -> float | None:
    """The cost at which a run was first this much like the data."""
    return next((reading.cost for reading in run.readings if reading.likeness >= level and reading.cost > 0), None)


def _errors(runs: Sequence[Run]) -> str:
    raised = Counter(run.error for run in runs if not run.decided)
    shown = "; ".join(f"{error} ({count} runs)" if count > 1 else error for error, count in raised.most_common(2))
    return f"{raised.total()} of {len(runs)} runs say nothing: {shown}" if raised else ""


def _seconds(runs: Sequence[Run], arm: str) -> str:
    seconds = median([run.warm_seconds for run in runs if run.arm == arm and run.decided])
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def _call(config: WarmStartConfig, **more: int) -> str:
    """The call to write, with what the config says otherwise than the default."""
    handover = "" if config.handover == "auto" else f", handover={config.handover!r}"
    default = WarmStartConfig()
    changed = {
        name: value
        for name, value in vars(config).items()
        if value != getattr(default, name) and name not in ("handover", "seed")
    } | more
    settings = ", ".join(f"{name}={value!r}" for name, value in changed.items())
    return f"warm_start(G, D, loader{handover}{f', config=WarmStartConfig({settings})' if changed else ''})"
