"""Truncations in the worker: what is sampled from, what is reported, mirostat's limit."""

import math

import numpy as np
import pytest
import torch

from probes.entropy import entropy_from_logits
from probes.laws import FixedLaw
from probes.truncation_functions import gap_threshold, spread_sums
from probes.truncations import Mirostat, Truncation
from tests.unit.server.engine import test_runner_v1 as v1
from tests.unit.server.engine import test_runner_v2 as v2
from tests.unit.server.engine.support import (
    EDT,
    MIROSTAT,
    P_LESS,
    TOP_N_SIGMA,
    TRUNCATIONS,
    asking,
    bits,
    make_controller,
    random_logits,
)

NO_TOKEN = np.zeros(1, np.int64)


def reference(
    one: Truncation, row: torch.Tensor, t: float, limit: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The row without what is removed, and the distribution at T."""
    beta = torch.tensor([1 / t])
    sums = spread_sums(row[None], row.max()[None, None], beta)
    tag, parameters = torch.tensor([float(one.tag)]), torch.tensor([one.row()])
    lowest = gap_threshold(sums, beta, tag, parameters, torch.tensor([limit]))
    cut = row.masked_fill(row - row.max() < lowest, -math.inf)
    return cut, torch.softmax(cut / t, -1)


@pytest.mark.parametrize("one", TRUNCATIONS)
@pytest.mark.parametrize("law", [None, EDT, FixedLaw(temperature=1.3)])
@pytest.mark.parametrize("beside", [False, True])
def test_the_sampler_gets_the_truncated_distribution_at_the_temperature_of_the_law(
    one: Truncation, law: object, beside: bool
) -> None:
    controller, record = make_controller()
    controller.add(0, asking(law, truncation=one), 0.8)  # type: ignore[arg-type]
    if beside:
        controller.add(1, asking(EDT, trace=8), 0.8)
    controller.flush()
    before = random_logits(2 if beside else 1)
    before[0, 5:9] = -math.inf
    after = before.clone()
    for group in controller.groups(np.arange(len(after))):
        controller.publish(controller.control(after, group, NO_TOKEN))
    reported = record[7, 0, 0]
    cut, expected = reference(one, before[0], reported.temperature, limit=2.0)
    assert 1 <= cut.isfinite().sum() < before[0].isfinite().sum()
    torch.testing.assert_close(torch.softmax(after[0] / 0.8, -1), expected)
    assert reported.entropy == pytest.approx(entropy_from_logits(before[0]).item(), abs=1e-5)
    sampled = entropy_from_logits(cut, reported.temperature).item()
    assert reported.sampled_entropy == pytest.approx(sampled, abs=1e-5)
    if beside:
        assert after[1].isfinite().all()
    assert controller.failures == 0


@pytest.mark.parametrize("one", TRUNCATIONS)
def test_greedy_rows_and_rows_without_entropy_are_untouched(one: Truncation) -> None:
    controller, record = make_controller()
    controller.add(0, asking(truncation=one, law=None), 0.0)
    controller.add(1, asking(truncation=one, law=None, trace=8), 1.0)
    controller.flush()
    before = random_logits(2)
    before[1, 3] = math.nan
    after = before.clone()
    (group,) = controller.groups(np.arange(2))
    measured = controller.control(after, group, np.zeros(2, np.int64))
    assert torch.equal(bits(after), bits(before))
    logprob = controller.learn(measured, before.argmax(-1))
    controller.publish(measured, logprob)
    assert record[7, 0, 0].logprob == pytest.approx(
        before[0].log_softmax(-1).max().item(), abs=1e-5
    )
    assert math.isnan(record[8, 0, 0].logprob)
    assert controller.failures == 0


def follow(limit: float, surprise: float, one: Mirostat = MIROSTAT) -> float:
    return limit - one.learning_rate * (surprise - one.surprise_target)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_mirostat_follows_the_tokens_that_vllm_samples_through_a_preemption(
    temperature: float,
) -> None:
    """On V1, with vLLM's own sampler, beside another mirostat and a plain request."""
    runner = v1.Runner()
    own = {"temperature": temperature}
    runner.add("0_a", asking(None, truncation=MIROSTAT, choices=2), **own)
    runner.add("plain", None, **own)
    runner.add("1_a", asking(None, truncation=MIROSTAT, choices=2), **own)
    rows, limits = {"0_a": 0, "1_a": 2}, {"0_a": 2.0, "1_a": 2.0}
    for index in range(20):
        if index == 7:  # the slots are others afterwards
            for name in ("0_a", "1_a"):
                runner.input_batch.remove_request(name)
            runner.refresh()
            for name in ("1_a", "0_a"):
                runner.add(name, asking(None, truncation=MIROSTAT, choices=2), **own)
            runner.refresh()
            rows = {name: row for row, name in enumerate(runner.input_batch.req_ids)}
        runner.input_batch.num_tokens_no_spec[:3] = 3 + index
        logits = random_logits(3, seed=index)
        tokens = runner.sample(logits)
        for name, limit in limits.items():
            row, token = logits[rows[name]], tokens[rows[name]]
            cut, shares = reference(MIROSTAT, row, temperature, limit)
            assert cut[token].isfinite(), (index, name)
            limits[name] = follow(limit, -shares[token].log().item())
            reported = runner.record[7, int(name[0]), index]
            assert reported.logprob == pytest.approx(row.log_softmax(-1)[token].item(), abs=1e-4)
            entropy = entropy_from_logits(cut, temperature).item()
            assert reported.sampled_entropy == pytest.approx(entropy, abs=1e-4), (index, name)
    assert limits["0_a"] != limits["1_a"]
    assert runner.controller.failures == 0


def test_mirostat_holds_the_mean_surprise_at_its_target() -> None:
    runner = v1.Runner()
    runner.add("a", asking(None, truncation=MIROSTAT), temperature=1.0)
    surprises, limit = [], 2.0
    for index in range(512):
        runner.input_batch.num_tokens_no_spec[:1] = 3
        logits = random_logits(1, seed=index, scale=1.5)
        (token,) = runner.sample(logits)
        _, shares = reference(MIROSTAT, logits[0], 1.0, limit)
        surprises.append(-shares[token].log().item())
        limit = follow(limit, surprises[-1])
    assert np.mean(surprises[100:]) == pytest.approx(1.0, rel=0.1)


def test_a_completion_keeps_its_limit_and_a_new_one_starts_anew() -> None:
    controller, _ = make_controller(num_slots=2)

    def step(slot: int, token: int, index: int = 0) -> float:
        """Shares of a flat row that are kept, and what is sampled from it."""
        controller.flush()
        logits = torch.linspace(4, 0, 64)[None].repeat(slot + 1, 1)
        (group,) = [g for g in controller.groups(np.arange(slot + 1)) if g.truncated]
        measured = controller.control(logits, group, np.array([index]))
        controller.learn(measured, torch.tensor([token]))
        return float(logits[slot].isfinite().sum())

    fresh = asking(None, trace=1, truncation=Mirostat(surprise_target=2.0))
    controller.add(0, fresh, 1.0)
    first = step(0, token=10)  # surprising: the limit falls
    second = step(0, token=10, index=-1)  # its prompt is still read: nothing was sampled
    third = step(0, token=10)
    assert second < first
    assert third == second
    after = step(0, token=10)
    assert after < third
    controller.add(0, None, 1.0)
    controller.add(1, fresh, 1.0)  # preempted, and back in another slot
    resumed = step(1, token=0)
    assert resumed <= after
    controller.add(1, asking(None, trace=2, truncation=Mirostat(surprise_target=2.0)), 1.0)
    assert step(1, token=0) == first
    for trace in range(3, 40):  # more completions than there are cells
        controller.add(0, asking(None, trace=trace, truncation=MIROSTAT), 1.0)
        controller.flush()
    assert first - 2 <= step(1, token=0) < first  # it kept its slot and so its limit
    assert controller.failures == 0


def test_log_probabilities_are_those_of_accepted_tokens_on_v2() -> None:
    runner = v2.Runner()
    runner.add(3, asking(None, 1, truncation=P_LESS), temperature=1.0)
    runner.add(1, asking(None, 2, truncation=TOP_N_SIGMA), temperature=1.0)
    before = random_logits(5)
    best = before.argmax(-1).tolist()
    rows = [(3, 4), (3, 5), (3, 6), (1, 2), (1, 3)]
    tokens = [[best[0], 9, -1], [best[3], best[4], 0]]
    runner.step(before.clone(), rows, accepted={3: 1, 1: 2}, tokens=tokens)
    truth = before.log_softmax(-1)
    reported = {key: one.logprob for key, one in runner.record.items()}
    assert reported == {
        (1, 0, 2): pytest.approx(truth[0, best[0]].item(), abs=1e-5),
        (2, 0, 0): pytest.approx(truth[3, best[3]].item(), abs=1e-5),
        (2, 0, 1): pytest.approx(truth[4, best[4]].item(), abs=1e-5),
    }
    varentropy = (truth.exp() * (truth + entropy_from_logits(before)[:, None]) ** 2).sum(-1)
    assert runner.record[2, 0, 1].varentropy == pytest.approx(varentropy[4].item(), abs=1e-4)


def test_a_step_verified_in_parts_has_no_log_probabilities_on_v2() -> None:
    runner = v2.Runner()
    for slot in (3, 1):
        runner.add(slot, asking(None, slot), temperature=1.0)
    runner.step(random_logits(2), [(3, 4), (1, 2)], chunk=1)
    assert all(math.isnan(one.logprob) for one in runner.record.values())
    assert all(math.isfinite(one.entropy) for one in runner.record.values())


def test_mirostat_follows_the_tokens_on_v2() -> None:
    runner = v2.Runner()
    runner.add(2, asking(None, 1, truncation=MIROSTAT), temperature=1.0)
    limit = 2.0
    for index in range(10):
        logits = random_logits(1, seed=index)
        cut, shares = reference(MIROSTAT, logits[0], 1.0, limit)
        after = runner.step(logits.clone(), [(2, 2 + index)], tokens=[[int(shares.argmax())]])
        assert torch.equal(after[0].isfinite(), cut.isfinite())
        limit = follow(limit, -shares.max().log().item())


def test_a_malformed_truncation_fails_its_own_request_alone() -> None:
    controller, _ = make_controller()
    extra = asking(None, truncation=P_LESS)
    extra["entropy"]["truncation"]["parameters"] = [math.inf, 0.0]
    controller.add(0, extra, 1.0)
    controller.flush()
    assert controller.failures == 1
    before = random_logits(1)
    after = before.clone()
    (group,) = controller.groups(np.arange(1))
    controller.control(after, group, NO_TOKEN)
    assert torch.equal(bits(after), bits(before))
