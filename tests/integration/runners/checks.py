"""Whether answers, traces and decisions are what transformers computes for the same tokens."""

import math
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from probes.entropy import entropy_from_logits
from probes.law_functions import apply_laws
from probes.laws import EntropyTargetLaw, ShuffledLaw, TemperatureLaw, law_row
from probes.shuffled import counter_uniform, draw_temperature
from tests.integration.runners.engines import Engine
from tests.integration.runners.inprocess import InProcess
from tests.integration.runners.traffic import TEMPERATURES_BY_CLASS, Request, Traffic
from tests.integration.runners.truncated import truncated
from tests.integration.support import hooked
from tests.unit.server.engine.support import STATISTICS

NEAR_TIE = 1e-3
"""Greedy tokens may differ where the two best logits are closer than this."""
TOLERANCE = {
    "logprob": 2e-4,
    "self-certainty": 5e-4,
    "collision": 1e-4,
    "varentropy": 2e-3,
    "entropy": 1e-4,
    "sampled entropy": 1e-3,
    "temperature": 1e-3,
    "probability": 1e-4,
    "target": 0.06,
}
LOOSE = 200
"""How much further apart a GPU may be, whose attention rounds its float32 to ten bits."""


def check(
    started: InProcess,
    requests: list[Request],
    traffic: Traffic,
    plans: dict[str, Any],
    artifacts: Any,
    checkpoint: Path,
) -> dict[str, Any]:
    """Compare every finished answer, token by token.

    Returns:
        How many answers and tokens were checked, the worst deviations, and what was wrong.
    """
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float64).eval()
    worst, wrong = defaultdict[str, float](float), list[str]()
    answers = tokens = thinking = 0
    for one in requests:
        output = traffic.answers.get(one.name)
        for choice in output.outputs if output is not None else ():
            drawn = list(choice.token_ids)
            answers, tokens = answers + 1, tokens + len(drawn)
            thinking += sum(one.thinks(drawn))
            logits, state = _reference_logits(reference, one, drawn, plans.get(one.name), artifacts)
            found = _deviations(started, one, choice.index, drawn, logits, state, artifacts)
            for name, value in found.items():
                worst[name] = max(worst[name], value)
                if not value <= TOLERANCE.get(name, 0.0) * (LOOSE if started.engine.cuda else 1):
                    wrong.append(f"{one.name}/{choice.index}: {name} {value:.4g} of {one}")
    counts = {"answers": answers, "tokens": tokens, "thinking": thinking}
    return counts | {"worst": dict(worst), "wrong": wrong}


def most_behind(engine: Engine) -> int:
    """Most records behind the end of an answer, which the API server ignores.

    The scheduler cuts an answer at its limit, of which the sampler knows nothing: accepted drafts
    may lie behind it. With asynchronous scheduling the next step is on its way by then; without
    drafts the scheduler knows the length of the answer before.
    """
    drafts = engine.num_drafts
    return 2 * drafts + 1 if drafts and engine.asynchronous else drafts


def _reference_logits(
    reference: Any, one: Request, drawn: list[int], plan: Any, artifacts: Any
) -> tuple[Tensor, Tensor]:
    """Logits of every drawn token after penalties, and the state that the prompt ends in."""
    moves = {}
    if plan is not None:
        vectors = artifacts.steering_vectors()[one.vector]
        for _, layer, factor in plan.control["add"]:
            move = vectors[layer] * factor
            moves[layer] = lambda stream, move=move: stream + move
    start = 0 if one.everywhere else len(one.ids) - 1
    with torch.inference_mode(), hooked(reference, moves, start):
        full = reference(torch.tensor([one.ids + drawn]), output_hidden_states=True)
    logits = full.logits[0, len(one.ids) - 1 : -1].clone()
    if one.penalty != 1.0:
        for position, row in enumerate(logits):
            seen = torch.tensor(sorted({*one.ids, *drawn[:position]}))
            row[seen] = torch.where(row[seen] > 0, row[seen] / one.penalty, row[seen] * one.penalty)
    return logits, full.hidden_states[-1][0, len(one.ids) - 1].float()


def _deviations(
    started: InProcess,
    one: Request,
    choice: int,
    drawn: list[int],
    logits: Tensor,
    state: Tensor,
    artifacts: Any,
) -> dict[str, float]:
    """Every deviation of one answer by name; names without a tolerance must be 0."""
    found: dict[str, float] = {}
    if one.temperature == 0.0:
        best = logits.topk(2).values
        sure = best[:, 0] - best[:, 1] >= NEAR_TIE
        found["greedy tokens"] = float((logits.argmax(-1) != torch.tensor(drawn))[sure].sum())
    if not one.controlled:
        return found
    kept = started.kept
    beyond = len(kept.beyond(one.trace, choice, len(drawn))) - most_behind(started.engine)
    found["records behind the end"] = float(max(0, beyond))
    try:
        columns = kept.trace(one.trace, choice, len(drawn)).T
    except AssertionError:
        return found | {"records missing": 1.0}
    entropy, temperature, sampled, logprob, varentropy, certainty, collision = columns
    if one.confident:
        plain = logits.double().log_softmax(-1)
        truth = -plain.mean(-1) - math.log(logits.shape[-1])
        found["self-certainty"] = float((certainty - truth).abs().max())
        found["collision"] = float((collision - plain.exp().square().sum(-1)).abs().max())
    chosen = logits.log_softmax(-1).gather(1, torch.tensor(drawn)[:, None]).squeeze(1)
    found["logprob"] = float((logprob - chosen).abs().max())
    surprise = -logits.log_softmax(-1)
    spread = (surprise - entropy[:, None]).square().mul(surprise.neg().exp()).sum(-1)
    found["varentropy"] = float(((varentropy - spread).abs() / spread.clamp_min(1.0)).max())
    found["entropy"] = float((entropy - entropy_from_logits(logits)).abs().max())
    applied = torch.where(temperature > 0, temperature, 1.0)
    support = truncated(one.truncation, logits, temperature, torch.tensor(drawn))
    found["tokens outside the truncation"] = float(support.outside)
    truth = torch.where(temperature > 0, entropy_from_logits(support.logits, applied), 0.0)
    off = (sampled - truth).abs()[support.sure]
    found["sampled entropy"] = float(off.max()) if len(off) else 0.0
    base = torch.full((len(drawn),), one.temperature)
    if one.probe is not None:
        decisions = kept.decisions.get((one.trace, choice), [])
        found["decisions missing"] = float(not decisions)
        if decisions:
            label, figures = decisions[-1]
            truth = artifacts.heads()[one.probe].probabilities(state[None])[0]
            found["probability"] = float((torch.tensor(figures[:3]) - truth).abs().max())
            if one.temperature > 0:
                base[:] = TEMPERATURES_BY_CLASS[label]
    thinking = torch.tensor(one.thinks(drawn) or [False] * len(drawn))
    for law, mine in ((one.thinking, thinking), (one.law, ~thinking)):
        for name, value in _law_deviations(one, choice, law, mine, logits, columns, base).items():
            found[name] = max(found.get(name, 0.0), value)
    return found


def _law_deviations(
    one: Request,
    choice: int,
    law: TemperatureLaw | None,
    mine: Tensor,
    logits: Tensor,
    columns: Tensor,
    base: Tensor,
) -> dict[str, float]:
    """Deviations of the tokens that follow a law: those of one phase, or all.

    Args:
        one: The request.
        choice: Which of its completions.
        law: None for the request's own temperature.
        mine: Which tokens follow it, shape (tokens,).
        logits: Shape (tokens, vocab).
        columns: Entropy, temperature and more of every token.
        base: T0 of every token.
    """
    entropy, temperature = columns[:2]
    if not mine.any():
        return {}
    if isinstance(law, EntropyTargetLaw):
        low, high = law.temperature_min, law.temperature_max
        free = mine & (temperature > low * 1.01) & (temperature < high * 0.99) & (base > 0)
        if not free.any():
            return {}
        reached = entropy_from_logits(logits / temperature.unsqueeze(-1))[free]
        return {"target": float((reached - law.entropy_target).abs().max())}
    if isinstance(law, ShuffledLaw):
        seeds = torch.full((len(base),), one.trace + choice)
        bins = torch.tensor([law.temperatures, law.cumulative()])
        bins = bins.expand(len(base), *bins.shape)
        uniform = counter_uniform(seeds, torch.arange(len(base)))
        expected = draw_temperature(uniform, *bins.unbind(1))
    else:
        tag, row = law_row(law, STATISTICS)
        rows, tags = torch.tensor([row] * len(base)), torch.full((len(base),), float(tag))
        expected = apply_laws(entropy, base, tags, rows, math.log(logits.shape[-1]))
    expected = torch.where(base > 0, expected, 0.0)
    return {"temperature": float((temperature - expected)[mine].abs().max())}
