"""Samples several answers to one prompt and returns the one that wins the vote."""

import asyncio
import math
from collections.abc import Sequence

from probes.confidence import certainty_weight
from probes.selective.votes import count_votes, weak_threshold
from server.requests.calls import EngineArguments, EngineCalls
from server.requests.difficulty import can_be_ended
from server.requests.samples import (
    MAX_ANSWER,
    MAX_ROWS,
    SampledOutcome,
    Samples,
    WeakRule,
    seeded,
)
from server.wire.report import VoteGroupReport, VoteReport
from server.wire.request import VoteControl


async def vote(
    calls: EngineCalls, control: VoteControl, arguments: EngineArguments
) -> SampledOutcome:
    """Replace an engine call by a vote.

    Args:
        calls: Makes the calls.
        control: The vote.
        arguments: Of the engine call.
    """
    params = [seeded(arguments.params, number) for number in range(control.n)]
    samples = Samples(calls, arguments, params, control.answer, control.stop)
    threshold = await _draw(samples, control, arguments)
    ended = sorted(samples.keys)
    voters = [number for number in ended if number not in samples.weak]
    weights = await _weights(samples, control, voters)
    groups = count_votes([samples.keys[number] for number in voters], weights)
    table = [
        VoteGroupReport(
            answer=group.key[:MAX_ANSWER], votes=len(group.members), weight=group.weight
        )
        for group in groups[:MAX_ROWS]
    ]
    report = VoteReport(
        answer=table[0].answer if table else None,
        weight="none" if weights is None else control.weight,
        n=control.n,
        finished=len(ended),
        agreement=len(groups[0].members) / len(voters) if groups else None,
        stopped=samples.stopped,
        tokens=samples.tokens,
        cached_tokens=samples.cached_tokens,
        table=table,
        no_answer=sum(samples.keys[number] is None for number in voters),
        threshold=threshold,
        weak=len(samples.weak),
    )
    members = groups[0].members if groups else range(len(voters))
    best = members[0] if weights is None else max(members, key=weights.__getitem__)
    return samples.choose(voters[best], vote=report)


async def _draw(samples: Samples, control: VoteControl, arguments: EngineArguments) -> float | None:
    """Draw all samples, or those of a warm-up first, which tell when the others are weak.

    Returns:
        The threshold; None if there is none.
    """
    if control.percentile == 0:
        await samples.draw()
        return None
    first = range(min(control.warmup, control.n))
    await samples.draw(first)
    if samples.stopped != "none":
        return None
    threshold, lowest = None, await samples.lowest_windows(first, control.window)
    known = [one for one in lowest if one is not None]
    if len(known) == len(first):
        threshold = weak_threshold(known, control.percentile)
        end = arguments.engine.renderer.get_eos_token_id()
        stop = end if can_be_ended(arguments.params, end) else None
        rule = WeakRule(control.window, threshold, stop)
        samples.require(rule, dict(zip(first, lowest, strict=True)))
    await samples.draw(range(len(first), control.n))
    return threshold


async def _weights(
    samples: Samples, control: VoteControl, voters: Sequence[int]
) -> list[float] | None:
    """What each vote counts; None if all count the same, or one was not measured."""
    kind = control.weight
    if kind == "none":
        return None
    if kind == "probability":
        logprobs = await samples.mean_logprobs(voters)
        return None if any(map(math.isnan, logprobs)) else list(map(math.exp, logprobs))
    found = await samples.measured(voters, "self_certainty")
    known = [one for one in found if one]
    if len(known) < len(found):
        return None
    return await asyncio.to_thread(
        lambda: [certainty_weight(one, control.window, kind) for one in known]
    )
