"""The recommendation: the controls that beat all of their baselines, or why there is none."""

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from training.common.metrics import Interval
from training.common.selective import COVERAGES
from training.evaluation.arms import ArmKind, EvaluationArm
from training.evaluation.flag import CONTROLS, ENTROPY, FlagResult
from training.evaluation.laws import ACCURACY, TREE, Difference
from training.evaluation.results import MIN_P, EvaluationResult
from training.evaluation.router import RouterResult

STOCK = "mean logprob (stock)"
_BARE = re.compile(r"[A-Za-z0-9_-]+")
"""A key of TOML that needs no quotes."""


class Recommendation(NamedTuple):
    """Profiles for `entrostat serve --profiles`, and a sentence for every goal."""

    profiles: dict[str, Mapping[str, Any]]
    """Controls by name."""
    sentences: dict[str, str]
    """By the goal of the user."""


def recommend(
    result: EvaluationResult, arms: Sequence[EvaluationArm], temperature: float
) -> Recommendation:
    """Decide by intervals on questions that chose nothing.

    Args:
        result: Of the evaluation.
        arms: Of the evaluation.
        temperature: T0 of the requests.
    """
    controls = {arm.name: arm.control for arm in arms}
    profiles: dict[str, Mapping[str, Any]] = {}
    sentences = {f"no loss by `{name}`": _loss(found) for name, found in result.profiles.items()}
    if not result.profiles:
        kinds = {arm.name: arm.kind for arm in arms}
        law, sentences["more accurate answers by a law or a truncation"] = _law(result, kinds)
        if law is not None:
            profiles[f"recommended-{law}"] = controls[law]
        better, said = _fixed(result, temperature)
        sentences["more accurate answers by a fixed temperature"] = said
        if better is not None:
            profiles["recommended-temperature"] = {
                "temperature": {"type": "fixed", "temperature": better}
            }
    for name, router in result.routers.items():
        wins, sentence = _router(name, router)
        sentences[f"fewer tokens or more accurate answers by the router `{name}`"] = sentence
        if wins:
            profiles[f"recommended-{name}"] = controls[name]
    works, sentences["tell wrong answers from right ones"] = _flag(result.flag)
    if works:
        profiles["recommended-flag"] = {"trace": "summary"}
    return Recommendation(profiles, sentences)


def interval_text(value: Interval) -> str:
    """A signed difference and its interval."""
    return f"{value.value:+.3f} ({value.low:+.3f} to {value.high:+.3f})"


def _loss(found: Sequence[Difference]) -> str:
    """How far the accuracy of a profile may be below that of the plain request."""
    accuracy = next(one for one in found if one.figure == ACCURACY)
    says = f"accuracy minus the plain request {interval_text(accuracy.value)}"
    if accuracy.is_below:
        return f"**Loss shown**: {says}."
    return f"No loss shown; more than {max(0.0, -accuracy.value.low):.3f} is excluded: {says}."


def _law(result: EvaluationResult, kinds: Mapping[str, ArmKind]) -> tuple[str | None, str]:
    law = result.best_law
    if law is None:
        return None, "None proven: no law and no truncation was measured."
    counted, by_trees = (
        {one.control: one for one in result.laws[law] if one.figure == figure}
        for figure in (ACCURACY, TREE)
    )
    beside = () if kinds[law] == "truncation" else (MIN_P,)
    needed = [one for name, one in (counted | by_trees).items() if name not in beside]
    missing = [one for one in needed if not one.is_above]
    if not missing:
        return law, f"`{law}` is above every control."
    return None, f"None proven: the most accurate one, `{law}`, is not above {_worst(missing)}."


def _worst(missing: Sequence[Difference]) -> str:
    worst = min(missing, key=lambda one: one.value.low)
    return (
        f"{worst.control}: {interval_text(worst.value)}; a difference of {worst.smallest:.3f} "
        "would have shown"
    )


def _fixed(result: EvaluationResult, temperature: float) -> tuple[float | None, str]:
    if not result.fixed:
        return None, f"The request's own T = {temperature:g} is the best of the curve already."
    (gain,) = result.fixed
    best = float(result.best_fixed.removeprefix("T = "))
    if gain.is_above:
        return best, f"T = {best:g} is above T = {temperature:g} by {interval_text(gain.value)}."
    return None, (
        f"None proven: T = {best:g}, the best on the questions that chose, is not above "
        f"T = {temperature:g}: {interval_text(gain.value)}; a difference of {gain.smallest:.3f} "
        "would have shown."
    )


_ROUTER_CONTROLS = (
    "random at the same rates",
    "table by kind of question",
    "TF-IDF of the question",
    "length of the question",
)


def _router(name: str, router: RouterResult) -> tuple[bool, str]:
    needed = [one for one in router.differences if one.control in _ROUTER_CONTROLS]
    missing = [one for one in needed if not one.is_above]
    if not missing:
        return True, f"`{name}` is above every control that spends as many tokens."
    return False, f"None proven: `{name}` is not above {_worst(missing)}."


def _flag(flag: FlagResult | None) -> tuple[bool, str]:
    if flag is None:
        return False, "Nothing to tell apart: all answers are right, or all are wrong."
    own, surest = flag.scores[ENTROPY], flag.scores[ENTROPY].accuracy[0]
    says = (
        f"`entropy_mean` has an AUROC of {own.auroc.value:.3f} ({own.auroc.low:.3f} to "
        f"{own.auroc.high:.3f}); the surest quarter of the answers is right {surest.value:.2f} "
        f"instead of {flag.accuracy.value:.2f}"
    )
    others = {name: flag.scores[name] for name in CONTROLS if name in flag.scores}
    above = {name: score.ahead is not None and score.ahead.high < 0
             for name, score in others.items()}  # fmt: skip
    useful = all(wins for name, wins in above.items() if name != STOCK)
    stock = others.get(STOCK)
    beside = ""
    if stock is not None and not above[STOCK]:
        beside = f" Stock `logprobs` say as much or more (AUROC {stock.auroc.value:.3f})."
    if useful:
        return True, f"{says}.{beside}"
    lost = [name for name, wins in above.items() if not wins and name != STOCK]
    return False, f"None proven: {says}, but it is not above {', '.join(lost)}.{beside}"


def profile_file(recommendation: Recommendation, head: str, flag: FlagResult | None) -> str:
    """`recommended.toml`: the profiles, and the sentences as comments.

    Args:
        recommendation: What to write.
        head: First lines, such as the model, the task and the command.
        flag: Its thresholds become comments of the flag's profile.
    """
    lines = [f"# {line}" for line in head.splitlines()]
    for goal, sentence in recommendation.sentences.items():
        lines += ["#", f"# {goal}: {sentence}"]
    if not recommendation.profiles:
        lines += ["#", "# No control is proven to beat its controls here, so there is no profile."]
    for name, control in recommendation.profiles.items():
        lines += ["", f"[{name if _BARE.fullmatch(name) else json.dumps(name)}]"]
        if name == "recommended-flag" and flag is not None:
            lines += [
                f"# The surest {share:.0%} of the answers have an `entropy_mean` below {limit:.4f}."
                for share, limit in zip(COVERAGES, flag.thresholds, strict=True)
            ]
        lines += [f"{key} = {_toml(value)}" for key, value in control.items()]
    return "\n".join(lines) + "\n"


def _toml(value: object) -> str:
    """A value of JSON as inline TOML; nulls are left out."""
    if isinstance(value, Mapping):
        pairs = (f"{key} = {_toml(item)}" for key, item in value.items() if item is not None)
        return f"{{ {', '.join(pairs)} }}" if value else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml(item) for item in value)}]"
    return json.dumps(value)  # strings, numbers and booleans are spelled alike
