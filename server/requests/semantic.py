"""Samples several answers to one prompt, measures how they disagree, and returns one answer."""

import logging
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from probes.selective.scores import Cluster
from probes.selective.semantic import cluster_ids, cluster_shares, semantic_entropy
from server.inquiry.engine_reads import ReadError
from server.requests.calls import EngineArguments, EngineCalls
from server.requests.judging import ComparedClusters, compared_clusters
from server.requests.samples import MAX_ANSWER, MAX_ROWS, SampledOutcome, Samples, seeded
from server.wire.report import ClusterReport, SemanticReport
from server.wire.request import SemanticControl

logger = logging.getLogger("vllm.entrostat")


async def semantic(
    calls: EngineCalls, control: SemanticControl, arguments: EngineArguments
) -> SampledOutcome:
    """Replace an engine call by samples and an answer.

    Args:
        calls: Makes the calls.
        control: How to sample.
        arguments: Of the engine call.
    """
    params = [_sample_params(control, arguments, number) for number in range(control.n)]
    if control.reply == "answer":
        params.append(seeded(arguments.params, 0))
    samples = Samples(calls, arguments, params, control.answer, "none")
    await samples.draw()
    found = await _clusters(calls, control, samples, arguments)
    logprobs: Sequence[float] = ()
    if control.estimator == "likelihood":
        logprobs = await samples.mean_logprobs(range(control.n))
    report = _report(control, found, logprobs, samples)
    counts = [found.ids.count(one) for one in found.ids]
    number = control.n if control.reply == "answer" else counts.index(max(counts))
    failed = "judge_failed" if found.cluster != control.cluster else None
    return samples.choose(number, semantic=report, fallback=failed)


class _Clusters(NamedTuple):
    cluster: Cluster
    """What grouped the samples."""
    ids: list[int]
    answers: list[str | None]
    """What each sample says."""
    compared: ComparedClusters | None = None


async def _clusters(
    calls: EngineCalls,
    control: SemanticControl,
    samples: Samples,
    arguments: EngineArguments,
) -> _Clusters:
    """Group the samples; by their answers where the model cannot be asked."""
    if control.cluster != "answer" and calls.extend is not None:
        texts = [samples.latest[number].outputs[0].text for number in range(control.n)]
        try:
            compared = await compared_clusters(texts, control.cluster, arguments, calls.extend)
        except ReadError as error:
            logger.warning("entrostat: samples are grouped by their answers: %s", error)
        else:
            samples.reply_tokens = compared.reads
            spoken = [" ".join(text.split()) or None for text in texts]
            return _Clusters(control.cluster, compared.ids, spoken, compared)
    keys = [samples.keys[number] for number in range(control.n)]
    return _Clusters("answer", cluster_ids(keys), keys)


def _sample_params(control: SemanticControl, arguments: EngineArguments, number: int) -> Any:
    params = seeded(arguments.params, number + 1)  # the answer has the request's own seed
    params.temperature, params.top_k, params.top_p = (
        control.temperature,
        control.top_k,
        control.top_p,
    )
    params.min_p = 0.0
    if control.reply == "answer":  # otherwise one of the samples is sent
        params.logprobs = None
    return params


def _report(
    control: SemanticControl,
    found: _Clusters,
    logprobs: Sequence[float],
    samples: Samples,
) -> SemanticReport:
    ids, compared = found.ids, found.compared
    counts = cluster_shares(ids, "discrete")
    known = not any(map(math.isnan, logprobs))
    shares = cluster_shares(ids, control.estimator, logprobs) if known else counts
    order = sorted(range(len(shares)), key=lambda one: (-shares[one], one))
    answers = [found.answers[ids.index(one)] for one in order]
    return SemanticReport(
        entropy=semantic_entropy(shares) if known else None,
        estimator=control.estimator,
        cluster=found.cluster,
        pairs=compared and compared.pairs,
        judge_agreement=compared.agreed / compared.pairs if compared and compared.pairs else None,
        agreement=max(counts),
        saturated=len(shares) == len(ids),
        clusters=[
            ClusterReport(answer=answer and answer[:MAX_ANSWER], share=shares[one])
            for one, answer in zip(order[:MAX_ROWS], answers, strict=False)
        ],
        n=control.n,
        tokens=samples.tokens,
        cached_tokens=samples.cached_tokens,
    )
