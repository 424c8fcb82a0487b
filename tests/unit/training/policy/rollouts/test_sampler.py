import math

import pytest
import torch
from torch import Tensor

from probes.entropy import entropy_from_logits
from probes.hapo_statistics import fit_hapo
from probes.laws import (
    DynatempLaw,
    EdtLaw,
    EntropyTargetLaw,
    FixedLaw,
    HapoLaw,
    HapoStatistics,
    TemperatureLaw,
)
from training.policy.rollouts.sampler import Sampler

STATISTICS = HapoStatistics(0.0, 1.0, 1.0, -1.0)
LAWS: list[TemperatureLaw] = [
    FixedLaw(temperature=1.4),
    HapoLaw(tau=0.5),
    EdtLaw(),
    DynatempLaw(range=0.5),
    EntropyTargetLaw(entropy_target=1.0),
]


def logits(rows: int = 3, vocabulary: int = 11, seed: int = 0) -> Tensor:
    return torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(seed)) * 2


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.type)
@pytest.mark.parametrize("base", [1.0, 0.7])
def test_recorded_logprobs_are_those_of_the_sampling_distribution(
    law: TemperatureLaw, base: float
) -> None:
    sampler = Sampler(law, base, statistics=STATISTICS)
    drawn = torch.tensor([[1, 2, 3], [4, 5, 6], [7, 8, 9]])
    expected = torch.empty(3, 3)
    for step in range(3):
        prefix = torch.cat([torch.zeros(3, 2, dtype=torch.long), drawn[:, :step]], 1)
        scores = sampler(prefix, logits(seed=step)) / base  # as the temperature warper does next
        chosen = torch.log_softmax(scores, -1).gather(-1, drawn[:, step : step + 1])
        expected[:, step] = chosen.squeeze(-1)
    recorded = sampler.logprobs(drawn.tolist())
    torch.testing.assert_close(torch.tensor(recorded), expected, atol=1e-5, rtol=1e-5)


def test_logprobs_have_the_length_of_each_answer() -> None:
    sampler = Sampler(None, 1.0)
    for step in range(3):
        sampler(torch.full((2, 1 + step), 4), logits(2, seed=step))
    assert [len(row) for row in sampler.logprobs([[4], [4, 4, 4]])] == [1, 3]


def test_the_target_law_samples_at_the_target_entropy() -> None:
    law = EntropyTargetLaw(
        entropy_target=1.0, temperature_min=0.05, temperature_max=5.0, side="both"
    )
    sampler = Sampler(law, 1.0)
    entropies = entropy_from_logits(sampler(torch.zeros(3, 1, dtype=torch.long), logits()))
    torch.testing.assert_close(entropies, torch.ones(3), atol=1e-3, rtol=0)


def test_hapo_uses_the_base_temperature_without_statistics() -> None:
    sampler = Sampler(HapoLaw(tau=0.5), 1.0)
    torch.testing.assert_close(sampler(torch.zeros(3, 1, dtype=torch.long), logits()), logits())
    hot = Sampler(HapoLaw(tau=0.5), 1.0, statistics=HapoStatistics(-9.0, 1.0, 1.0, -1.0))
    hot(torch.zeros(3, 1, dtype=torch.long), logits())
    torch.testing.assert_close(hot.temperatures[0], torch.full((3,), 1.5))


@pytest.mark.parametrize("base", [0.6, 1.0, 1.3])
def test_hapo_uses_entropies_at_the_base_temperature(base: float) -> None:
    rows = logits(rows=64, vocabulary=50)
    statistics = fit_hapo(entropy_from_logits(rows, base))
    sampler = Sampler(HapoLaw(tau=0.5), base, statistics=statistics)
    sampler(torch.zeros(64, 1, dtype=torch.long), rows)
    heated = (sampler.temperatures[0] > base).float().mean()
    assert heated == pytest.approx(0.2, abs=0.02)  # the pivot is the quantile 0.8


def test_a_shift_moves_the_temperature() -> None:
    sampler = Sampler(None, 1.0, shift=0.3)
    sampler(torch.zeros(3, 1, dtype=torch.long), logits())
    assert sampler.temperatures[0].tolist() == pytest.approx([1.3] * 3)


def test_importance_weights_average_to_one_only_with_recorded_logprobs() -> None:
    """E_q[p / q] = 1, where the sampler draws from q and p is the policy at temperature 1."""
    draws, raw = 20_000, logits(1, 50, seed=3)
    sampler = Sampler(EntropyTargetLaw(entropy_target=1.5, side="both"), 1.0)
    scores = sampler(torch.zeros(draws, 1, dtype=torch.long), raw.expand(draws, -1))
    generator = torch.Generator().manual_seed(1)
    tokens = torch.multinomial(torch.softmax(scores, -1), 1, generator=generator)
    behavior = torch.tensor(sampler.logprobs(tokens.tolist()))[:, 0]
    policy = torch.log_softmax(raw, -1).expand(draws, -1).gather(-1, tokens)[:, 0]
    assert (policy - behavior).exp().mean() == pytest.approx(1.0, abs=0.02)
    # A mean of a reward: right with the weights, biased without.
    reward = (tokens[:, 0] == int(raw.argmax())).double()
    truth = math.exp(float(torch.log_softmax(raw, -1).max()))
    assert float(((policy - behavior).exp() * reward).mean()) == pytest.approx(truth, abs=0.02)
    assert abs(float(reward.mean()) - truth) > 0.05
