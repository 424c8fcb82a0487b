"""Confidence and abstention for the OpenAI SDK; `clients.entropy` exports these names."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from openai import OpenAI

from clients.reports import EntropyReport, report


def confidence(probe: str | None = None, *, window: int | None = None) -> dict[str, object]:
    """Report how sure the model was of its answer.

    Args:
        probe: Id of a `confidence` artifact, which adds the probability that the answer is right.
        window: Tokens over which the lowest self-certainty averages; None uses the probe's, or the
            server's 2048.
    """
    asked = {"probe": probe, "window": window}
    return {key: value for key, value in asked.items() if value is not None}


def abstain(
    calibration: str,
    alpha: float,
    *,
    promise: Literal["joint", "selective"],
    delta: float | None = None,
    text: str | None = None,
    withhold: bool | None = None,
) -> dict[str, object]:
    """Replace an answer that is too uncertain by a fixed text.

    Args:
        calibration: Id of an `abstention` artifact.
        alpha: Bound of the promise.
        promise: "joint": an answer is given and wrong with probability at most alpha. "selective":
            at most alpha of the given answers are wrong.
        delta: For "selective": probability that the calibration misleads; None uses the server's
            0.1.
        text: Sent instead of the answer; None uses the server's "I don't know.".
        withhold: False puts the replaced answer into the report.
    """
    asked = {"delta": delta, "text": text, "withhold": withhold}
    return {
        "calibration": calibration,
        "alpha": alpha,
        "promise": promise,
    } | {key: value for key, value in asked.items() if value is not None}


def vote(
    n: int | None = None,
    *,
    answer: Literal["auto", "boxed", "numeric", "choice", "line", "exact", "json"] | None = None,
    weight: Literal["none", "probability", "self_certainty", "tail", "bottom", "lowest"]
    | None = None,
    stop: Literal["none", "lead", "beta", "consensus"] | None = None,
    percentile: float | None = None,
    warmup: int | None = None,
    window: int | None = None,
) -> dict[str, object]:
    """Sample several answers and return the most frequent one.

    Args:
        n: Number of answers; None uses the server's 8.
        answer: How answers are read and compared; None compares numbers by value, words otherwise.
        weight: "probability" weighs each vote by the probability of a token of its sample, the
            others by the self-certainty of its tokens.
        stop: When the rest is aborted: "lead" if the majority is certain, "beta" if it is probable,
            "consensus" if nearly all votes are equal.
        percentile: Above 0, samples whose certainty falls below this percentile of the first ones
            end and have no vote.
        warmup: So many first ones; None uses the server's 4.
        window: Tokens over which certainty averages; None uses the server's 2048.
    """
    asked = {
        "n": n,
        "answer": answer,
        "weight": weight,
        "stop": stop,
        "percentile": percentile,
        "warmup": warmup,
        "window": window,
    }
    return {key: value for key, value in asked.items() if value is not None}


def semantic(
    n: int | None = None,
    *,
    temperature: float | None = None,
    top_k: int | None = None,
    top_p: float | None = None,
    answer: Literal["auto", "boxed", "numeric", "choice", "line", "exact", "json"] | None = None,
    cluster: Literal["answer", "judge", "entailment"] | None = None,
    estimator: Literal["discrete", "likelihood"] | None = None,
    reply: Literal["answer", "largest"] | None = None,
) -> dict[str, object]:
    """Measure how much several answers disagree in what they say.

    Args:
        n: Number of samples; None uses the server's 10.
        temperature: Of the samples; None uses 1.
        top_k: Of the samples; None uses 50.
        top_p: Of the samples; None uses 1.
        answer: How answers are read and compared.
        cluster: "answer" groups equal answers; "judge" and "entailment" ask the model about pairs.
        estimator: "discrete" counts samples, "likelihood" weighs them.
        reply: "answer" sends an answer by the request's own parameters, "largest" a sample of the
            largest cluster.
    """
    asked = {
        "n": n,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "answer": answer,
        "cluster": cluster,
        "estimator": estimator,
        "reply": reply,
    }
    return {key: value for key, value in asked.items() if value is not None}


class SelectiveAnswer(NamedTuple):
    """An answer, or the text that replaced it."""

    text: str
    declined: bool
    """Whether the model did not answer."""
    report: EntropyReport


def ask_or_decline(
    client: OpenAI,
    model: str,
    messages: Iterable[Any],
    abstain: dict[str, object],
    *,
    confidence: dict[str, object] | None = None,
    **options: Any,
) -> SelectiveAnswer:
    """Ask in `/v1/chat/completions`; the answer says whether the server declined.

    Args:
        client: Of the OpenAI SDK.
        model: As in the SDK.
        messages: As in the SDK.
        abstain: Result of `abstain`.
        confidence: Result of `confidence`; needed if the calibration's score is one of its fields.
        **options: Further arguments of `chat.completions.create`, such as `temperature`, which must
            be that of the calibration.

    Raises:
        openai.BadRequestError: The server refuses the control; names the field.
        ValueError: The server sent no verdict: it is no Entrostat server.
    """
    control = {"abstain": abstain} | ({} if confidence is None else {"confidence": confidence})
    answer = client.chat.completions.create(
        model=model, messages=messages, extra_body={"entropy": control}, **options
    )
    choice = answer.choices[0]
    found = report(choice)
    if found is None or found.abstain is None:
        raise ValueError("the answer has no verdict: ask a server started with `entrostat serve`")
    return SelectiveAnswer(choice.message.content or "", found.abstain.abstained, found)
