"""The report matches transformers, token by token."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from openai import OpenAI

from probes.entropy import entropy_from_logits
from tests.conftest import Server
from tests.integration.support import PROMPTS, ask, law, report, some, together


class Sample(NamedTuple):
    logits: torch.Tensor  # of every answer token, computed by transformers
    entropy: torch.Tensor
    temperature: torch.Tensor
    reports: list[dict[str, Any]]


@pytest.fixture(scope="module")
def reference(checkpoint: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)


def sample(server: Server, reference: Any, entropy: dict[str, Any], **options: Any) -> Sample:
    """Answers to the prompts with one control, and the logits at every token."""
    client, prompts = server.client, some(server, PROMPTS, 4)
    options = {"max_tokens": 40, "temperature": None, **options}
    options = {key: value for key, value in options.items() if value is not None}

    def job(index: int) -> Any:
        extra = {"return_token_ids": True, **options.get("extra_body", {})}
        rest = {key: value for key, value in options.items() if key != "extra_body"}
        return ask(client, prompts[index], entropy, seed=index, extra_body=extra, **rest)

    answers = together([lambda i=i: job(i) for i in range(len(prompts))])
    logits, entropies, temperatures = [], [], []
    for answer in answers:
        prompt, tokens = answer.prompt_token_ids, answer.choices[0].token_ids
        with torch.inference_mode():
            out = reference(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
        logits.append(out)
        trace = report(answer)["tokens"]
        assert len(trace) == len(tokens)
        entropies += [token["entropy"] for token in trace]
        temperatures += [token["temperature"] for token in trace]
    assert len(entropies) >= 0.75 * options["max_tokens"] * len(prompts)
    reports = [report(answer) for answer in answers]
    return Sample(torch.cat(logits), torch.tensor(entropies), torch.tensor(temperatures), reports)


@pytest.mark.both_runners
def test_reported_entropies_are_those_of_the_full_distribution(
    server: Server, reference: Any
) -> None:
    drawn = sample(server, reference, {"trace": "tokens"})
    truth = entropy_from_logits(drawn.logits)
    difference = (drawn.entropy - truth).abs()
    assert difference.mean() <= 2e-3, f"mean {difference.mean():.2e}, max {difference.max():.2e}"
    assert (drawn.temperature == 1.0).all()


def test_hapo_applies_its_law_to_the_reported_entropy(
    server: Server, reference: Any, checkpoint: Path
) -> None:
    from probes.artifact import ModelIdentity
    from probes.law_functions import apply_laws
    from probes.laws import HapoLaw
    from server.artifacts import Artifacts, shipped_artifacts
    from server.served_model import ModelFacts

    artifacts = Artifacts(
        [shipped_artifacts()], ModelIdentity.from_checkpoint(checkpoint), ModelFacts(576)
    )
    statistics = artifacts.hapo_statistics("smollm2-135m/entropy", "statistics")
    drawn = sample(server, reference, law("hapo", tau=0.3), temperature=0.9)
    row = HapoLaw(tau=0.3).row(statistics)
    count = len(drawn.entropy)
    expected = apply_laws(
        drawn.entropy,
        torch.full((count,), 0.9),
        torch.full((count,), float(HapoLaw.tag)),
        torch.tensor([row] * count),
        0.0,
    )
    assert (drawn.temperature - expected).abs().max() <= 1e-4
    assert drawn.temperature.min() < 0.9 < drawn.temperature.max()


@pytest.mark.parametrize(
    ("kind", "parameters"),
    [("edt", {"theta": 0.7, "base": 0.8}), ("dynatemp", {"range": 0.4, "exponent": 0.8})],
)
def test_other_laws_apply_to_the_reported_entropy(
    server: Server, reference: Any, kind: str, parameters: dict[str, float]
) -> None:
    drawn = sample(server, reference, law(kind, **parameters), temperature=0.8)
    h = drawn.entropy
    if kind == "edt":
        expected = 0.8 * 0.8 ** (0.7 / h.clamp_min(1e-6))
    else:
        expected = 0.4 + 0.8 * (h / torch.log(torch.tensor(49152.0))) ** 0.8
    assert (drawn.temperature - expected.clamp_min(0.01)).abs().max() <= 1e-4


@pytest.mark.both_runners
def test_the_sampled_distribution_has_the_target_entropy(server: Server, reference: Any) -> None:
    drawn = sample(server, reference, law("entropy_target", entropy_target=1.0, side="both"))
    applied = entropy_from_logits(drawn.logits, drawn.temperature)
    clamped = ((drawn.temperature - 0.1).abs() < 1e-4) | ((drawn.temperature - 2.0).abs() < 1e-4)
    reachable = applied[~clamped]
    assert len(reachable) >= 0.7 * len(applied)
    assert abs(float(reachable.mean()) - 1.0) <= 0.02
    assert (reachable - 1.0).abs().quantile(0.99) <= 0.05


@pytest.mark.parametrize(
    ("entropy", "base"),
    [
        (law("entropy_target", entropy_target=1.0, side="both"), 1.0),
        (law("dynatemp", range=0.4), 0.8),
        ({"trace": "tokens"}, 0.6),
        ({"trace": "tokens"}, 0.0),
    ],
)
def test_a_report_has_the_mean_entropy_of_the_distribution_that_was_sampled(
    server: Server, reference: Any, entropy: dict[str, Any], base: float
) -> None:
    drawn = sample(server, reference, entropy, temperature=base, max_tokens=12)
    greedy = drawn.temperature == 0
    applied = entropy_from_logits(drawn.logits, drawn.temperature.masked_fill(greedy, 1.0))
    sizes = [one["num_tokens"] for one in drawn.reports]
    parts = torch.split(applied.masked_fill(greedy, 0.0), sizes)
    truth = [part.mean().item() for part in parts]
    reported = [one["sampled_entropy_mean"] for one in drawn.reports]
    assert reported == pytest.approx(truth, abs=2e-3)


def test_unreachable_targets_are_clamped_and_counted(client: OpenAI) -> None:
    answer = ask(
        client, PROMPTS[0], law("entropy_target", entropy_target=10.7, side="both"), max_tokens=16
    )
    body = report(answer)
    assert body["num_clamped"] == body["num_tokens"] > 0
    assert all(token["temperature"] == pytest.approx(2.0) for token in body["tokens"])
    assert body["fallback"] is None


@pytest.mark.both_runners
def test_entropy_is_measured_after_penalties_including_greedy_requests(
    client: OpenAI, reference: Any
) -> None:
    """V1 runs processors before penalties, and skips late ones if all requests are greedy."""
    penalty = 1.5
    answer = ask(
        client,
        PROMPTS[1],
        {"trace": "tokens"},
        temperature=0,
        max_tokens=20,
        extra_body={"return_token_ids": True, "repetition_penalty": penalty},
    )
    prompt, tokens = answer.prompt_token_ids, answer.choices[0].token_ids
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + tokens])).logits[0, len(prompt) - 1 : -1]
    logits = logits.clone()  # leave inference mode
    for position, row in enumerate(logits):
        seen = torch.tensor(sorted(set(prompt + tokens[:position])))
        row[seen] = torch.where(row[seen] > 0, row[seen] / penalty, row[seen] * penalty)
    truth = entropy_from_logits(logits)
    trace = report(answer)["tokens"]
    measured = torch.tensor([token["entropy"] for token in trace])
    assert (measured - truth).abs().mean() <= 2e-3
    assert all(token["temperature"] == 0.0 for token in trace)
    assert logits.argmax(-1).tolist() == tokens


def test_shuffled_temperatures_are_reproducible_and_independent_of_the_entropy(
    server: Server, reference: Any
) -> None:
    histogram = {"temperatures": [0.5, 0.8, 1.2], "weights": [1, 2, 1]}
    control = {"temperature": {"type": "shuffled", **histogram}, "trace": "tokens"}
    drawn = sample(server, reference, control)
    truth = entropy_from_logits(drawn.logits)
    assert (drawn.entropy - truth).abs().mean() <= 2e-3
    shares = [float((drawn.temperature - t).abs().lt(1e-6).float().mean()) for t in (0.5, 0.8, 1.2)]
    assert sum(shares) == pytest.approx(1.0)
    assert shares == pytest.approx([0.25, 0.5, 0.25], abs=0.12)
    both = torch.stack([drawn.entropy, drawn.temperature])
    assert torch.corrcoef(both)[0, 1].abs() < 4 / len(drawn.entropy) ** 0.5
    again = sample(server, reference, control)
    shared = min(len(again.temperature), len(drawn.temperature), 40)
    assert torch.equal(again.temperature[:shared], drawn.temperature[:shared])
