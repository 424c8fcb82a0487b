"""What asking is worth where the answers are known: patients of `triage`, without a model.

The predictor is the task's table, so the rule that chooses is measured apart from a model: the
question with the smallest expected set, ties by entropy, as `/v1/decisions` chooses.

    python -m benchmarks.decisions.ask_table --out decisions-ask-triage-table
"""

import argparse
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.decisions.ask import Case, Game, by_way, new_cases, page
from benchmarks.machine import describe
from probes.inquiry.likelihood import posterior
from probes.inquiry.lookahead import answer_weights, expected_entropy, expected_size
from probes.inquiry.pursuit import MIN_GAIN
from probes.inquiry.table import CredibleSets, table_logprobs
from probes.inquiry.task import load_task
from probes.selective.semantic import semantic_entropy
from training.common.files import write_text

_TASK = load_task("triage")
_QUESTIONS = [one.question for one in _TASK.queries]
_COMPLAINTS = {f"A patient {one.property}": place for place, one in enumerate(_TASK.queries)}


def play(case: Case, level: float, limit: int, table: Tensor) -> dict[str, Game]:
    """Decide one patient in all ways.

    Args:
        case: From `benchmarks.decisions.ask.new_cases`.
        level: Of the credible sets.
        limit: Most questions.
        table: ln P(answer | question, label), shape (Q, 2, K).
    """
    return by_way(
        games(case, level, limit, table, choose=False),
        games(case, level, limit, table, choose=True)[-1],
    )


def games(case: Case, level: float, limit: int, table: Tensor, *, choose: bool) -> list[Game]:
    """How a patient stands after none, one, two, ... questions, chosen or in random order."""
    sets, right = CredibleSets(level), _TASK.names.index(case.right)
    history, found = [(_COMPLAINTS[case.text], 0)], list[Game]()
    left = [_QUESTIONS.index(question) for question in case.facts]
    random.Random(case.text + case.right + repr(case.facts)).shuffle(left)
    while True:
        now = posterior(table, history)
        members = sets.sets(now, len(history))
        size = int(members.sum())
        found.append(Game(int(now.argmax()) == right, bool(members[right]), size, len(found)))
        if size == 1 or len(found) > limit:
            return found
        place = best(left, history, now, size, sets, table) if choose else left[0]
        if place is None:
            return found
        left.remove(place)
        history.append((place, _TASK.answers.index(case.facts[_QUESTIONS[place]])))


def best(
    left: Sequence[int],
    history: Sequence[tuple[int, int]],
    now: Tensor,
    size: int,
    sets: CredibleSets,
    table: Tensor,
) -> int | None:
    """The question with the smallest expected set; None if none is expected to shrink it."""
    after = torch.stack(
        [
            torch.stack([posterior(table, [*history, (one, answer)]) for answer in (0, 1)])
            for one in left
        ]
    )
    weights = answer_weights(table[list(left)].exp(), now)
    sizes = expected_size(sets.sets(after, len(history) + 1), weights)
    entropies = expected_entropy(after, weights)
    most = semantic_entropy(now.tolist()) - MIN_GAIN
    ranks = [
        (round(float(one), 9), float(entropy), place)
        for one, entropy, place in zip(sizes, entropies, left, strict=True)
        if one < size and entropy < most
    ]
    return min(ranks)[2] if ranks else None


def main() -> None:
    """Play and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--level", type=float, default=0.8)
    parser.add_argument("--cases", type=int, default=600)
    parser.add_argument("--questions", type=int, default=3, help="most questions")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    chosen = parser.parse_args()
    facts = describe("benchmarks.decisions.ask_table")
    table = table_logprobs(_TASK)
    assert table is not None
    _, cases = new_cases("triage", chosen.cases)
    found = [play(case, chosen.level, chosen.questions, table) for case in cases]
    settings = (
        f"`triage` by its table, level {chosen.level}, at most {chosen.questions} of "
        f"{len(cases[0].facts)} questions"
    )
    write_text(Path(f"{chosen.out}.md"), page(facts, found, settings))


if __name__ == "__main__":
    main()
