"""Rewards, advantages and statistics, compared with papers and public code in float64."""

import math
from dataclasses import replace

import pytest
import torch

from tests.unit.training.objectives.batch import (
    case,
    loss_and_gradient,
    objectives,
    only,
    policy_loss,
    rollout,
    trainer_loss,
)
from training.objectives.core.batch import RolloutBatch
from training.objectives.core.controller import ControllerConfig, EntropyController
from training.objectives.core.requirements import RequiredTensor
from training.policy.text_features import turn_steps

LENGTHS = [9, 4, 1, 7, 12, 12, 3, 5]
NAMES = ["high_entropy_mask", "steer", "clip_cov", "kl_cov", "tea_rl", "lp_reg"]
SHARES = {"clip_cov": {"share": 1.0, "covariance_min": 0.05}, "kl_cov": {"share": 0.2}}
SHARES["lp_reg"] = {"share": 0.8, "kappa": 0.001}


def noise(seed: int, *shape: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(*shape, generator=generator, dtype=torch.float64) * 3


def thinking(seed: int, closed: bool) -> tuple[RolloutBatch, list[int]]:
    """Completions with the end tag at a random position, or without it."""
    generator = torch.Generator().manual_seed(seed)
    phases = torch.full((8, 12), -1)
    tags = []
    for row, length in enumerate(LENGTHS):
        tag = int(torch.randint(length, (), generator=generator)) if closed else length
        phases[row, :tag], phases[row, tag + 1 : length] = 0, 1
        tags.append(tag)
    rewards = noise(seed + 1, 8).round(decimals=2).tolist()
    return rollout(rewards, LENGTHS, old_entropy=noise(seed, 8, 12), phases=phases), tags


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("closed", [True, False], ids=["with tag", "without tag"])
@pytest.mark.parametrize("seed", range(3))
def test_pear_equals_the_reward_of_the_paper(seed: int, closed: bool, alpha: float) -> None:
    """min(1, s - max(0, H_think - alpha H_answer)); k = T and H_answer = 0 without a tag."""
    batch, tags = thinking(seed, closed)
    found = only({"type": "pear", "alpha": alpha}).shape_rewards(batch).tolist()
    for row, (length, tag) in enumerate(zip(LENGTHS, tags, strict=True)):
        entropies = batch.measured[RequiredTensor.OLD_ENTROPY][row].tolist()
        think, answer = entropies[:tag], entropies[tag + 1 : length]
        h_think = sum(think) / len(think) if think else 0.0
        h_answer = sum(answer) / len(answer) if answer else 0.0
        penalty = max(0.0, h_think - alpha * h_answer)
        expected = min(1.0, float(batch.rewards[row]) - penalty)
        assert found[row] == pytest.approx(expected, abs=1e-12)


def test_never_closing_the_thinking_phase_does_not_avoid_the_penalty() -> None:
    batch, _ = thinking(0, closed=False)
    assert bool((only("pear").shape_rewards(batch) < batch.rewards.clamp_max(1.0)).all())


@pytest.mark.parametrize("seed", range(3))
def test_empg_over_agent_turns_equals_the_listing_of_the_paper(seed: int) -> None:
    """A g(H_t) + zeta f(H_t+1) over turns of trained tokens, then centered over all steps."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.rand(8, 12, generator=generator) < 0.6
    batch = rollout([1.0, 0, 0, 1, 0.5, 0, 0, 0], LENGTHS, old_entropy=noise(seed, 8, 12))
    batch = replace(batch, mask=batch.mask & drawn)
    steps = turn_steps(batch.mask)
    batch = replace(batch, measured={**batch.measured, RequiredTensor.STEPS: steps})
    found = only("empg").shape_advantages(batch)

    turns: list[tuple[int, list[int]]] = []  # row, columns
    for row, marks in enumerate(batch.mask.tolist()):
        for column, mark in enumerate(marks):
            if mark and column and marks[column - 1]:
                turns[-1][1].append(column)
            elif mark:
                turns.append((row, [column]))
    h = [
        sum(float(batch.measured[RequiredTensor.OLD_ENTROPY][row, c]) for c in columns)
        / len(columns)
        for row, columns in turns
    ]
    scaled = [(x - min(h)) / (max(h) - min(h) + 1e-8) for x in h]
    scale = sum(math.exp(-x) for x in scaled) / len(scaled)
    raw = []
    for index, (row, columns) in enumerate(turns):
        follows = index + 1 < len(turns) and turns[index + 1][0] == row
        bonus = 0.1 * math.exp(-scaled[index + 1]) if follows else 0.0
        advantage = float(batch.advantages[row, columns[0]])
        raw.append(advantage * math.exp(-scaled[index]) / scale + bonus)
    center = sum(raw) / len(raw)
    for (row, columns), value in zip(turns, raw, strict=True):
        for column in columns:
            assert float(found[row, column]) == pytest.approx(value - center, abs=1e-12)


def test_the_turn_before_a_tool_result_gets_its_bonus() -> None:
    """Step numbers may have gaps; the next step is the next one with tokens."""
    steps = torch.tensor([[0, 0, 2, 2], [0, 0, 0, 0]])
    batch = rollout(
        [1.0, 0.0],
        [4, 4],
        num_generations=2,
        old_entropy=torch.tensor([[0.0, 0, 1, 1], [1.0] * 4], dtype=torch.float64),
        steps=steps,
    )
    with_bonus = only("empg").shape_advantages(batch)
    without = only({"type": "empg", "clarity": 0.0}).shape_advantages(batch)
    gain = (with_bonus - without)[0]
    assert float(gain[0] - gain[2]) == pytest.approx(0.1 * math.exp(-1), abs=1e-6)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("name", NAMES)
def test_with_rollout_statistics_the_micro_batch_size_changes_nothing(name: str, seed: int) -> None:
    one = case(seed, rows=12, lag=0.0)
    config = {"type": name, **SHARES.get(name, {})}
    loss, gradient = loss_and_gradient(objectives(config), one)
    _, plain = loss_and_gradient(objectives("none"), one)
    if name != "kl_cov":
        assert not torch.allclose(plain, gradient)
    composed = objectives(config)
    statistics = composed.rollout_statistics(one.tokens(), one.advantages, 0.2, 0.28)
    for width in (1, 3, 5):
        total, gradients = torch.zeros((), dtype=torch.float64), []
        for start in range(0, 12, width):
            part = slice(start, start + width)
            piece = one.rows(part)
            tokens = replace(
                piece.tokens(), statistics={key: x[part] for key, x in statistics.items()}
            ).without_padding()
            plan = composed.plan(tokens, piece.advantages, 0.2, 0.28)
            own = trainer_loss(plan, tokens, float(one.mask.sum()), 12)
            total = total + own.detach()
            gradients.append(torch.autograd.grad(own, piece.logits)[0])
        torch.testing.assert_close(total, loss, atol=1e-10, rtol=1e-10)
        torch.testing.assert_close(torch.cat(gradients), gradient, atol=1e-10, rtol=1e-10)


def test_a_step_without_tokens_changes_neither_controller_nor_objective() -> None:
    """The entropy of such a step is NaN; 0 would be below every target."""
    empty = case()._replace(mask=torch.zeros(6, 8, dtype=torch.bool))
    for name in ("adaptive_entropy", "target_entropy", "epo", "dcpo"):
        composed = objectives(name)
        composed.plan(case().tokens(), case().advantages, 0.2, 0.28)
        composed.end_step()
        before = composed.state_dict()
        composed.plan(empty.tokens(), empty.advantages, 0.2, 0.28)
        step = composed.end_step()
        assert step.num_tokens == 0
        assert math.isnan(step.entropy)
        assert composed.state_dict() == before
    controller = EntropyController(ControllerConfig(entropy_target=1.0, limit=0.5))
    output = controller.update(2.0)
    assert controller.update(step.entropy) == output
    assert controller.average == 2.0


def test_the_soft_clip_has_the_clipped_value_and_a_gradient() -> None:
    """r A sg((1 + eps) / r): the value (1 + eps) A, the gradient (1 + eps) A grad(logprob)."""
    one = case(rows=20, lag=0.6)
    tokens = one.tokens().without_padding()
    plan = objectives("soft_clip_high_entropy").plan(tokens, one.advantages, 0.2, 0.28)
    loss = policy_loss(plan, tokens)
    (gradient,) = torch.autograd.grad(loss.sum(), tokens.logprobs, retain_graph=True)
    silenced = one.mask & (one.advantages > 0)[:, None] & (tokens.ratio > 1.28)
    assert bool(silenced.any())
    limit = (-1.28 * one.advantages[:, None]).expand(one.mask.shape)
    torch.testing.assert_close(loss.detach()[silenced], limit[silenced])
    torch.testing.assert_close(gradient[silenced], limit[silenced])
