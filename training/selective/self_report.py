"""What the model says of its own answers: the baselines p(True) and verbalized confidence.

p(True) is the probability of `True` where `True` and `False` are the only replies that are allowed
(Kadavath et al., arXiv 2207.05221, without examples in the prompt). The verbalized confidence is
the number that the model writes, greedily.
"""

import math
from collections.abc import Iterator, Mapping, Sequence

from training.common.rollout_store import RolloutStore
from training.common.server_pool import RolloutRecord, SampleRequest, Sampling

P_TRUE, VERBALIZED = "p_true", "verbalized"
SELF_REPORTS = (P_TRUE, VERBALIZED)
"""Names of the two, in the order of the requests."""
_ASKED = {
    P_TRUE: ("Is the proposed answer right? Reply True or False.", {"choice": ["True", "False"]}),
    VERBALIZED: (
        "How likely is it that the proposed answer is right? Reply with a number from 0 to 100.",
        {"regex": "(100|[1-9]?[0-9])"},
    ),
}


def missing_reports(
    answers: Sequence[RolloutRecord], store: RolloutStore
) -> Iterator[SampleRequest]:
    """Requests that the store has no reply to.

    Args:
        answers: To be asked about; their last message is the question.
        store: Replies; number = 2 * answer + kind.
    """
    for place, answer in enumerate(answers):
        for kind, name in enumerate(SELF_REPORTS):
            number = 2 * place + kind
            if number in store.rollouts:
                continue
            question, allowed = _ASKED[name]
            content = (
                f"Question: {answer.messages[-1]['content']}\n"
                f"Proposed answer: {answer.text.strip()}\n\n{question}"
            )
            sampling = Sampling(0.0, 4, {"confidence": {}}, {"structured_outputs": allowed})
            yield SampleRequest(number, [{"role": "user", "content": content}], 0, sampling)


def self_reports(num_answers: int, store: RolloutStore) -> list[Mapping[str, float]]:
    """The two numbers of every answer, each from 0 to 1."""
    found: list[Mapping[str, float]] = []
    for place in range(num_answers):
        replies = {name: store.rollouts[2 * place + kind] for kind, name in enumerate(SELF_REPORTS)}
        found.append({P_TRUE: _p_true(replies[P_TRUE]), VERBALIZED: _number(replies[VERBALIZED])})
    return found


def _p_true(reply: RolloutRecord) -> float:
    """Probability of `True`: the log-probability of the reply is after the mask of its grammar."""
    own = math.exp(min((reply.scores or {}).get("logprob_sum") or 0.0, 0.0))
    return own if reply.text.strip() == "True" else 1 - own


def _number(reply: RolloutRecord) -> float:
    return min(float(reply.text.strip() or 0), 100.0) / 100
