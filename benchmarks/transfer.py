"""Confidence probes on a task that they were not fitted to.

Every task is left out once: probes are fitted to each of the other tasks and to all of them, and
are scored on the one left out, beside the mean log-probability. Reads rows of `train-probe
confidence`.

    python -m benchmarks.transfer quiz.jsonl sums.jsonl words.jsonl --title "0.5B" --out transfer
"""

import math
from collections.abc import Mapping, Sequence
from itertools import combinations

from benchmarks.graded import write_comparison
from benchmarks.machine import markdown
from training.common.metrics import Floats, resample_weights
from training.common.report import markdown_table
from training.common.selective import ScoreFigures, compare_scores
from training.selective.confidence import fit_data
from training.selective.figures import PROBE, REFERENCE
from training.selective.fit import FitData, candidates, cross_fitted, final_probe, probabilities
from training.selective.rows import GradedAnswers

_OWN = "itself, left-out questions"
_HEADER = (
    *("scored on", "fitted to", "probe, AUROC", "`logprob_mean`", "probe minus `logprob_mean`"),
    *("surest 25, 50, 75 % right", "ECE", "ECE by chance"),
)


def joined(parts: Sequence[GradedAnswers]) -> GradedAnswers:
    """The answers of several tasks."""
    first = parts[0]
    return first._replace(rows=[row for part in parts for row in part.rows])


def probe_of(fitted: GradedAnswers, data: FitData, seed: int = 0) -> Floats:
    """Probability of every answer by a probe of all scores, fitted to other tasks."""
    own = fit_data(fitted)
    best = candidates(own, [tuple(own.columns)], seed)[0]
    return probabilities(final_probe(own, best, fitted, seed), data)


def figures(data: FitData, probability: Floats, seed: int = 0) -> dict[str, ScoreFigures]:
    """A probe beside the mean log-probability."""
    numbers = data.groups.astype(int)
    weights = resample_weights(int(numbers.max()) + 1, seed)[:, numbers]
    doubts = {PROBE: -probability[:, None], REFERENCE: -data.columns["logprob_mean"][:, None]}
    estimates = {PROBE: probability}
    return compare_scores(doubts, REFERENCE, estimates, (1 - data.right)[:, None], weights)


def compare_tasks(tasks: Mapping[str, GradedAnswers]) -> list[list[str]]:
    """One line for every task and every set of tasks to fit, its own first."""
    lines = []
    for name, answers in tasks.items():
        data = fit_data(answers)
        own = cross_fitted(data, [tuple(data.columns)], 0)[0]
        lines.append([name, _OWN, *_cells(figures(data, own))])
        others = [other for other in tasks if other != name]
        for count in range(1, len(others) + 1):
            for chosen in combinations(others, count):
                found = probe_of(joined([tasks[one] for one in chosen]), data)
                lines.append([name, " and ".join(chosen), *_cells(figures(data, found))])
    return lines


def _cells(found: Mapping[str, ScoreFigures]) -> list[str]:
    probe, reference = found[PROBE], found[REFERENCE]
    ahead, area = probe.ahead, probe.auroc
    assert ahead is not None
    return [
        f"{area.value:.3f} ({area.low:.3f} to {area.high:.3f})",
        f"{reference.auroc.value:.3f}",
        f"{ahead.value:+.3f} ({ahead.low:+.3f} to {ahead.high:+.3f})",
        ", ".join(f"{share.value:.2f}" for share in probe.accuracy),
        f"{probe.ece or math.nan:.3f}",
        f"{probe.chance_ece or math.nan:.3f}",
    ]


def page(title: str, tasks: Mapping[str, GradedAnswers], facts: dict[str, object]) -> str:
    """The result as Markdown."""
    table = markdown_table(_HEADER, compare_tasks(tasks))
    sizes = ", ".join(
        f"{name} {len(one.rows)} answers, {sum(row.right for row in one.rows) / len(one.rows):.2f}"
        " right"
        for name, one in tasks.items()
    )
    made = "\n".join(markdown(facts))
    return f"""# Confidence on a task left out: {title}

{made}

{sizes}. The probes use all scores of the report, and no state of the prompt.

{table}

Intervals are 95 % bootstraps over questions of the task that is scored. "ECE by chance" is what an
exact probability would show on so few answers.
"""


def main() -> None:
    """Compare and write the page."""
    write_comparison("benchmarks.transfer", __doc__, page)


if __name__ == "__main__":
    main()
