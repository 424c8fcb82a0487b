"""Samples several answers to one prompt and returns the one that wins the vote."""

import math

from probes.selective.votes import count_votes
from server.requests.calls import EngineArguments, EngineCalls
from server.requests.samples import MAX_ANSWER, MAX_ROWS, SampledOutcome, Samples, seeded
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
    await samples.draw()
    ended = sorted(samples.keys)
    weights: list[float] | None = None
    if control.weight == "probability":
        logprobs = await samples.mean_logprobs(ended)
        if not any(map(math.isnan, logprobs)):
            weights = list(map(math.exp, logprobs))
    groups = count_votes([samples.keys[number] for number in ended], weights)
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
        agreement=len(groups[0].members) / len(ended) if groups else None,
        stopped=samples.stopped,
        tokens=samples.tokens,
        cached_tokens=samples.cached_tokens,
        table=table,
        no_answer=sum(samples.keys[number] is None for number in ended),
    )
    members = groups[0].members if groups else range(len(ended))
    best = members[0] if weights is None else max(members, key=weights.__getitem__)
    winner = ended[best]
    return samples.choose(winner, vote=report)
