from pathlib import Path

from training.common.rollout_store import RolloutStore
from training.common.server_pool import RolloutRecord, SampleRequest, Sampling
from training.datasets.problem import Problem
from training.evaluation.arms import EvaluationArm
from training.evaluation.collect import AnswerDraw, AnswerGrid, halves, pending

PROBLEMS = [
    Problem(task="t", prompt=f"question {n}", answer="1", grader="numeric") for n in range(4)
]
ARMS = {n: EvaluationArm(f"arm {n}", "fixed", Sampling(0.5 + n, 8)) for n in range(2)}


def answer(request: SampleRequest, tokens: int = 8) -> RolloutRecord:
    return RolloutRecord(
        number=request.number,
        messages=request.messages,
        seed=request.seed,
        text="1",
        finish_reason="stop",
        entropies=[1.0] * tokens,
        temperatures=[1.0] * tokens,
    )


def wanted(budget: int) -> AnswerDraw:
    return AnswerDraw(AnswerGrid(4, 2), ARMS, [0, 2], budget, longest=8)


def test_halves_split_every_kind_evenly() -> None:
    kinds = ["a", "b", "a", "b", "a", "a", "c"]
    choosing, scoring = halves(kinds)
    assert sorted(choosing + scoring) == list(range(7))
    for kind in "ab":
        counts = [sum(kinds[q] == kind for q in part) for part in (choosing, scoring)]
        assert abs(counts[0] - counts[1]) <= 0


def test_the_budget_holds_even_if_every_answer_is_the_longest(tmp_path: Path) -> None:
    with RolloutStore(tmp_path / "answers.jsonl") as store:
        requests = list(pending(wanted(40), PROBLEMS, "", 0, store))
        assert len(requests) == 5  # 5 answers of 8 tokens
        for request in requests:
            store.append(answer(request))
        assert store.num_tokens <= 40
        assert list(pending(wanted(40), PROBLEMS, "", 0, store)) == []


def test_short_answers_leave_tokens_for_further_questions(tmp_path: Path) -> None:
    draw = wanted(40)
    with RolloutStore(tmp_path / "answers.jsonl") as store:
        for request in pending(draw, PROBLEMS, "", 0, store):
            store.append(answer(request, tokens=2))
        assert draw.complete(store) == [0, 2]


def test_what_is_in_the_store_is_not_asked_again(tmp_path: Path) -> None:
    draw = wanted(1000)
    with RolloutStore(tmp_path / "answers.jsonl") as store:
        first = [next(iter(pending(draw, PROBLEMS, "", 0, store)))]
        store.append(answer(first[0]))
        rest = list(pending(draw, PROBLEMS, "", 0, store))
        assert first[0].number not in [request.number for request in rest]
        assert len(rest) == 7


def test_arms_share_the_seed_of_a_sample_and_have_their_own_sampling(tmp_path: Path) -> None:
    with RolloutStore(tmp_path / "answers.jsonl") as store:
        requests = list(pending(wanted(1000), PROBLEMS, "Think.", 0, store))
    by_arm = [[r for r in requests if r.sampling == arm.sampling] for arm in ARMS.values()]
    assert [r.seed for r in by_arm[0]] == [r.seed for r in by_arm[1]]
    assert len({r.seed for r in by_arm[0]}) == 4
    assert requests[0].messages[0]["content"] == "question 0\n\nThink."


def test_progress_is_the_larger_of_answers_and_budget(tmp_path: Path) -> None:
    few, many = wanted(64), wanted(100_000)
    with RolloutStore(tmp_path / "answers.jsonl") as store:
        meters = few.meter(), many.meter()
        assert [meter(store) for meter in meters] == [0, 0]
        for request in list(pending(many, PROBLEMS, "", 0, store))[:4]:
            store.append(answer(request))
        assert [meter(store) for meter in meters] == [50, 50]
