"""Arms of an evaluation: ways to ask, each with the controls that it has to beat."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np

from training.common.server_pool import Sampling
from training.evaluation.config import EvaluateConfig

ArmKind = Literal[
    "fixed", "min_p", "law", "mean", "shuffled", "truncation", "strategy", "router", "profile"
]
"""`mean` and `shuffled` are controls of a law, `strategy` those of a router; a `profile` has none
and is compared with the plain request."""
STRATEGIES = {"easy": "low", "normal": "medium", "hard": "high"}
"""Names of strategies, and the `reasoning_effort` that selects each."""
MAX_BINS = 64
"""Most temperatures that the law `shuffled` takes."""
OF_ENTROPY = frozenset(("hapo", "edt", "dynatemp"))
"""Laws whose temperature is a function of the token's entropy alone, given the model and T0."""
NUM_ALTERNATIVES = 20
"""Most probable tokens that are recorded at every place for answer trees: vLLM's default limit."""

Json = Mapping[str, Any]
_WHOLE: Json = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}
"""Keys of a request whose tokens are drawn from the whole distribution, whatever the model's
generation config says."""


class EvaluationArm(NamedTuple):
    """One way to ask every question."""

    name: str
    kind: ArmKind
    sampling: Sampling | None
    """None for a control that needs the temperatures of its law first."""
    of: str = ""
    """The profile that this arm belongs to."""
    control: Mapping[str, Any] = {}
    """The control of the profile, as `recommended.toml` would have it."""


class SkippedProfile(NamedTuple):
    """A profile that is not measured."""

    name: str
    reason: str


def fixed_name(temperature: float) -> str:
    """Name of an arm with one temperature."""
    return f"T = {temperature:g}"


def make_arms(
    config: EvaluateConfig, profiles: Mapping[str, Json]
) -> tuple[list[EvaluationArm], list[SkippedProfile]]:
    """Arms in the order in which answers are numbered, and the profiles without one.

    Args:
        config: The settings.
        profiles: Controls by the name of the profile.
    """
    if config.against == "plain":
        return _plain_arms(config, profiles)
    length = config.max_tokens
    plain = [
        EvaluationArm(fixed_name(t), "fixed", _measured(Sampling(t, length), config, t))
        for t in config.curve
    ]
    if config.min_p:
        sampling = Sampling(1.0, length, further={"min_p": config.min_p})
        plain.append(EvaluationArm(f"min_p = {config.min_p:g}, T = 1", "min_p", sampling))
    arms, skipped = plain, list[SkippedProfile]()
    routed = False
    for name, control in profiles.items():
        asked = _asked(control)
        if set(asked) == {"temperature"} and asked["temperature"].get("type") != "fixed":
            arms += _law_arms(name, asked, config)
        elif set(asked) == {"truncation"}:
            sampling = Sampling(config.temperature, length, asked)
            arms.append(EvaluationArm(name, "truncation", sampling, name, asked))
        elif set(asked) == {"difficulty"} and not routed:
            routed = True
            arms += _router_arms(name, asked, config)
        else:
            skipped.append(SkippedProfile(name, _why_not(asked)))
    return arms, skipped


def _measured(sampling: Sampling, config: EvaluateConfig, temperature: float | None) -> Sampling:
    """What an arm needs: all alternatives for trees, log-probabilities for the flag."""
    if config.trees:
        further = {"top_logprobs": NUM_ALTERNATIVES, **_WHOLE}
        return sampling._replace(further=further, logprobs=True)
    return sampling._replace(logprobs=temperature == config.temperature)


def is_computed(arm: EvaluationArm, config: EvaluateConfig) -> bool:
    """Whether an arm is a control that trees make it unnecessary to draw."""
    return config.trees and arm.kind in ("mean", "shuffled") and is_law_of_entropy(arm.control)


def is_law_of_entropy(control: Json) -> bool:
    """Whether a control is one law whose temperature follows from the token's distribution."""
    law = control.get("temperature")
    if set(control) != {"temperature"} or not isinstance(law, Mapping):
        return False
    return law.get("type") in (*OF_ENTROPY, "entropy_target", "fixed")


def _plain_arms(
    config: EvaluateConfig, profiles: Mapping[str, Json]
) -> tuple[list[EvaluationArm], list[SkippedProfile]]:
    """The plain request and each profile."""
    length = config.max_tokens
    plain = Sampling(config.temperature, length, logprobs=True)
    arms, skipped = [EvaluationArm(fixed_name(config.temperature), "fixed", plain)], []
    for name, control in profiles.items():
        asked = _asked(control)
        if asked:
            base = None if "difficulty" in asked else config.temperature
            arms.append(EvaluationArm(name, "profile", Sampling(base, length, asked), name, asked))
        else:
            skipped.append(SkippedProfile(name, "sets nothing that changes an answer"))
    return arms, skipped


def _asked(control: Json) -> dict[str, Any]:
    """The parts of a control that a profile sets, without those that only report."""
    return {key: value for key, value in control.items() if value not in (None, "summary")}


def _why_not(asked: Json) -> str:
    if set(asked) == {"temperature"}:
        return "is a fixed temperature, which the curve covers"
    if set(asked) == {"difficulty"}:
        return "is a second router: name it alone with --profiles"
    names = ", ".join(asked) or "nothing"
    return f"sets {names}: only a law, a truncation or a router has controls here"


def _law_arms(name: str, control: Json, config: EvaluateConfig) -> list[EvaluationArm]:
    sampling = _measured(Sampling(config.temperature, config.max_tokens, control), config, None)
    return [
        EvaluationArm(name, "law", sampling, name, control),
        EvaluationArm(f"{name}: mean T", "mean", None, name, control),
        EvaluationArm(f"{name}: shuffled T", "shuffled", None, name, control),
    ]


def _router_arms(name: str, control: Json, config: EvaluateConfig) -> list[EvaluationArm]:
    """The router, and each of its strategies for every question."""
    length = config.max_tokens
    fixed = {"difficulty": {**control["difficulty"], "effort": True}}
    return [
        EvaluationArm(name, "router", Sampling(None, length, control), name, control),
        *(
            EvaluationArm(
                f"{name}: always {word}",
                "strategy",
                Sampling(None, length, fixed, {"reasoning_effort": effort}),
                name,
            )
            for word, effort in STRATEGIES.items()
        ),
    ]


def matched(
    arm: EvaluationArm, temperatures: Sequence[float], config: EvaluateConfig
) -> EvaluationArm:
    """A law's control with the temperatures that the law applied.

    Args:
        arm: Of the kind `mean` or `shuffled`.
        temperatures: Those of the law's tokens, on questions that only choose.
        config: The settings.
    """
    if arm.kind == "mean":
        mean = round(float(np.mean(temperatures)), 4)
        return arm._replace(sampling=Sampling(mean, config.max_tokens))
    law = shuffled_law(temperatures)
    sampling = Sampling(config.temperature, config.max_tokens, {"temperature": law})
    return arm._replace(sampling=sampling)


def shuffled_law(temperatures: Sequence[float]) -> dict[str, Any]:
    """The server's law that draws every token's temperature from a histogram of these."""
    values, counts = np.unique(np.round(temperatures, 4), return_counts=True)
    if len(values) > MAX_BINS:
        parts = np.array_split(np.sort(temperatures), MAX_BINS)
        values = np.array([part.mean() for part in parts])
        counts = np.array([len(part) for part in parts])
    return {
        "type": "shuffled",
        "temperatures": [round(float(value), 6) for value in np.clip(values, 0.01, None)],
        "weights": [float(count) for count in counts],
    }
