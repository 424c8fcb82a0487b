"""Accuracy, entropy and calibration of a policy on held-out problems."""

import math
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from transformers import GenerationConfig, LogitsProcessorList

from training.datasets.problem import Problem
from training.policy.rollouts.sampler import Sampler

NUM_BINS = 10


class Evaluation(NamedTuple):
    """Results on held-out problems, sampled at the rollout temperature."""

    correct: list[list[bool]]
    """Per problem, per sample."""
    confidence: list[list[float]]
    """Geometric mean of the token probabilities of each answer."""
    entropies: list[float]
    """Entropy of every token, nats."""
    lengths: list[list[int]]
    """Tokens of each answer."""

    @property
    def accuracy(self) -> float:
        """Share of right answers (pass@1)."""
        return _mean([float(right) for row in self.correct for right in row])

    @property
    def entropy(self) -> float:
        """Mean entropy over tokens, nats."""
        return _mean(self.entropies)

    def pass_at(self, k: int) -> float:
        """Unbiased estimate of the probability that at least one of k answers is right.

        Source: Chen et al. (arXiv 2107.03374), equation 1.
        """
        return _mean([_pass_at(len(row), sum(row), k) for row in self.correct])

    def standard_error(self) -> float:
        """Standard error of the accuracy, over problems."""
        means = [_mean([float(right) for right in row]) for row in self.correct]
        center = _mean(means)
        squares = sum((mean - center) ** 2 for mean in means)
        return math.sqrt(squares / max(len(means) - 1, 1) / len(means))

    def calibration(self) -> list[tuple[float, float, int]]:
        """Mean confidence, accuracy and number of answers in bins of confidence."""
        pairs = [
            (confidence, right)
            for confidences, rights in zip(self.confidence, self.correct, strict=True)
            for confidence, right in zip(confidences, rights, strict=True)
        ]
        rows = []
        for index in range(NUM_BINS):
            inside = [pair for pair in pairs if min(int(pair[0] * NUM_BINS), NUM_BINS - 1) == index]
            if inside:
                confidences, rights = zip(*inside, strict=True)
                rows.append((_mean(confidences), _mean([float(r) for r in rights]), len(inside)))
        return rows

    def calibration_error(self) -> float:
        """Expected calibration error over the bins of `calibration`."""
        rows = self.calibration()
        total = sum(count for _, _, count in rows)
        gaps = (count * abs(sure - right) for sure, right, count in rows)
        return sum(gaps) / max(total, 1)


@torch.no_grad()
def evaluate(
    model: Any,
    tokenizer: Any,
    ends: Sequence[int],
    problems: Sequence[Problem],
    prompts: Sequence[list[dict[str, str]]],
    *,
    samples: int,
    batch: int,
    max_tokens: int,
    temperature: float,
    seed: int,
) -> Evaluation:
    """Sample and grade answers; does not change the random state of the run.

    Args:
        model: A `transformers` model.
        tokenizer: Its tokenizer, with left padding.
        ends: Ids of the tokens that end an answer, as in training.
        problems: Held-out problems.
        prompts: Conversations of the problems.
        samples: Answers per problem.
        batch: Sequences generated at once.
        max_tokens: Largest number of tokens of an answer.
        temperature: Sampling temperature.
        seed: Seed of the sampling; equal seeds give equal answers.
    """
    rows = [prompt for prompt in prompts for _ in range(samples)]
    texts: list[str] = []
    confidence: list[float] = []
    entropies: list[float] = []
    lengths: list[int] = []
    with torch.random.fork_rng(), _eval_mode(model):
        torch.manual_seed(seed)
        for start in range(0, len(rows), batch):
            inputs = tokenizer.apply_chat_template(
                rows[start : start + batch],
                add_generation_prompt=True,
                padding=True,
                return_dict=True,
                return_tensors="pt",
            ).to(model.device)
            sampler = Sampler(None, temperature)
            config = GenerationConfig(
                max_new_tokens=max_tokens,
                do_sample=True,
                temperature=temperature,
                top_k=0,
                top_p=1.0,
                repetition_penalty=1.0,  # as in TRL; overrides the model's generation config
                eos_token_id=list(ends),
                pad_token_id=tokenizer.pad_token_id,
            )
            drawn = model.generate(
                **inputs,
                generation_config=config,
                logits_processor=LogitsProcessorList([sampler]),
            )[:, inputs["input_ids"].shape[1] :]
            answers = [_truncate(row, ends) for row in drawn.tolist()]
            confidence += [math.exp(_mean(row)) for row in sampler.logprobs(answers)]
            entropies += [value for row in sampler.entropies(answers) for value in row]
            lengths += [len(answer) for answer in answers]
            texts += tokenizer.batch_decode(answers, skip_special_tokens=True)
    asked = [problem for problem in problems for _ in range(samples)]
    correct = [problem.is_right(text) for problem, text in zip(asked, texts, strict=True)]
    return Evaluation(
        _split(correct, samples),
        _split(confidence, samples),
        [round(value, 4) for value in entropies],
        _split(lengths, samples),
    )


@contextmanager
def _eval_mode(model: Any) -> Any:
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def _truncate(row: list[int], ends: Sequence[int]) -> list[int]:
    stop = next((at + 1 for at, token in enumerate(row) if token in ends), len(row))
    return row[:stop]


def _split(values: list[Any], size: int) -> list[list[Any]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0


def _pass_at(number: int, right: int, k: int) -> float:
    if number - right < k:
        return 1.0
    return 1.0 - math.prod(1.0 - k / i for i in range(number - right + 1, number + 1))
