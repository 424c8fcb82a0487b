import math
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter

from training.objectives.catalog import ObjectiveList
from training.objectives.compose import Objectives
from training.objectives.core.batch import UNCLIPPED
from training.objectives.core.requirements import RequiredTensor
from training.policy.loss import (
    ROLLOUT_LOGITS,
    TRAINING_LOGITS,
    importance_weight,
    policy_mean,
    ratio_limits,
    score_logits,
)

MASK = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]).bool()
TERMS = torch.tensor([[1.0, 2.0, 3.0, torch.nan], [4.0, 5.0, 9.0, 9.0]])


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("grpo", (6 / 3 + 9 / 2) / 2),
        ("bnpo", 15 / 5),
        ("dr_grpo", 15 / (2 * 10)),
        ("dapo", 15 / 7),
    ],
)
def test_terms_are_normalized_like_the_loss_type(loss_type: str, expected: float) -> None:
    mean = policy_mean(TERMS, MASK, loss_type=loss_type, num_items=7.0, max_length=10)
    assert float(mean) == pytest.approx(expected)


def test_ratio_limits_are_distances_from_one() -> None:
    assert ratio_limits("dapo", 0.2, 0.28) == (0.2, 0.28)
    assert ratio_limits("cispo", 0.2, 5.0) == (UNCLIPPED, 4.0)
    assert ratio_limits("sapo", 0.2, 0.2) == (UNCLIPPED, UNCLIPPED)


def test_importance_weights_are_ratios_truncated_at_the_cap() -> None:
    old = torch.tensor([[-1.0, -1.0, -1.0, -1.0]])
    drawn = torch.tensor([[-2.0, -0.5, -9.0, torch.nan]])
    mask = torch.tensor([[True, True, True, True]])
    expected = [math.e, math.exp(-0.5), 3.0, 1.0]
    assert importance_weight(old, drawn, mask, 3.0)[0].tolist() == pytest.approx(expected)
    assert importance_weight(old, drawn, ~mask, 3.0)[0].tolist() == [1.0] * 4


def test_full_logits_give_the_tensors_of_each_objective() -> None:
    configs = TypeAdapter(ObjectiveList).validate_python(["dcpo", "lp_reg"])
    objectives = Objectives(configs)
    logits = torch.randn(2, 4, 7, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 0]])
    scored = score_logits(logits, ids, objectives, ROLLOUT_LOGITS)
    categorical: Any = torch.distributions.Categorical
    table, hot = categorical(logits=logits), categorical(logits=logits / 1.2)
    torch.testing.assert_close(scored.logprobs, table.log_prob(ids))
    torch.testing.assert_close(scored.entropy, table.entropy())
    torch.testing.assert_close(scored.measured[RequiredTensor.RESCORED_LOGPROBS], hot.log_prob(ids))
    proxy = objectives.members["lp_reg"].measure(logits, ids)
    torch.testing.assert_close(scored.measured[RequiredTensor.PROXY_LOGPROBS], proxy)
    assert not score_logits(logits, ids, objectives, TRAINING_LOGITS).measured
