"""The page of an evaluation, in Markdown."""

from collections.abc import Iterable, Sequence

from training.common.metrics import Interval
from training.common.report import markdown_table
from training.common.selective import ScoreFigures
from training.evaluation.arms import ArmKind, EvaluationArm
from training.evaluation.config import EvaluateConfig
from training.evaluation.flag import ENTROPY, FlagResult
from training.evaluation.laws import ArmFigures, Difference
from training.evaluation.recommend import Recommendation, interval_text
from training.evaluation.results import EvaluationResult
from training.evaluation.router import RouterResult

_KINDS: dict[ArmKind, str] = {
    "fixed": "fixed temperature",
    "min_p": "stock min_p",
    "law": "law",
    "mean": "control: one temperature, the law's mean",
    "shuffled": "control: the law's temperatures in random order",
    "truncation": "truncation",
    "strategy": "control: one strategy for all",
    "router": "router",
    "profile": "profile",
}


def write_text_of(
    result: EvaluationResult,
    arms: Sequence[EvaluationArm],
    config: EvaluateConfig,
    recommendation: Recommendation,
    head: str,
    figure: str,
) -> str:
    """The page.

    Args:
        result: What was found.
        arms: All arms.
        config: The settings.
        recommendation: For the first table.
        head: Title and provenance, in Markdown.
        figure: File name of the figure.
    """
    goals = [(goal, sentence) for goal, sentence in recommendation.sentences.items()]
    parts = [
        head,
        markdown_table(("goal", "what was found"), goals),
        f"![Accuracy against tokens and pass@{config.votes}, risk against coverage]({figure})",
        _flag(result.flag),
        _arms(result, arms, config),
        _laws(result, config),
        _trees(result),
        _profiles(result),
        *(_router(name, router) for name, router in result.routers.items()),
        _skipped(result),
        _plain_method(result, config) if result.profiles else _method(result, config),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def cell(value: Interval, digits: int = 3) -> str:
    """A figure and its interval."""
    return f"{value.value:.{digits}f} ({value.low:.{digits}f} to {value.high:.{digits}f})"


_FLAG_HEAD = (
    "score", "AUROC", "`entropy_mean` minus this", "right: surest 25 %", "50 %", "75 %", "E-AURC",
    "ECE",
)  # fmt: skip


def _flag(flag: FlagResult | None) -> str:
    if flag is None:
        return "## Flag\n\nAll answers are right, or all are wrong: there is nothing to tell apart."
    text = f"""## Flag

How well a score tells wrong answers from right ones: {flag.num_answers:,} plain answers to
{flag.num_questions} questions, of which {cell(flag.accuracy)} are right. AUROC .5 is chance. ECE is
that of a logistic curve fitted on the other half of the questions. The final part is what the
grader reads as the answer; where it finds none, the whole answer counts.

{markdown_table(_FLAG_HEAD, _flag_rows(flag.scores))}"""
    if not flag.votes:
        return text
    return f"""{text}

The same against the most frequent answer of a question being wrong, which takes all of its answers:

{markdown_table(_FLAG_HEAD, _flag_rows(flag.votes))}"""


def _flag_rows(scores: dict[str, ScoreFigures]) -> Iterable[tuple[str, ...]]:
    for name, score in scores.items():
        yield (
            f"**{name}**" if name == ENTROPY else name,
            cell(score.auroc),
            "" if score.ahead is None else interval_text(score.ahead.negated),
            *(f"{one.value:.2f}" for one in score.accuracy),
            f"{score.excess_aurc:.3f}",
            f"{score.ece:.3f}",
        )


def _arms(result: EvaluationResult, arms: Sequence[EvaluationArm], config: EvaluateConfig) -> str:
    k = config.votes
    head = ("arm", "kind", "accuracy", f"pass@{k}", f"maj@{k}", "distinct", "tokens", "mean T",
            "mean entropy", "cut", "same")  # fmt: skip
    rows = [
        (arm.name, _KINDS[arm.kind], *_figures(result.arms[arm.name]))
        for arm in arms
        if arm.name in result.arms
    ]
    chose = "" if result.profiles else " that chose nothing"
    return f"""## Arms

{result.num_scoring} questions{chose}, {config.samples} answers to each by every arm.
`distinct` counts different answers to a question, `cut` is the share of answers that reached
`--max-tokens {config.max_tokens}`, `same` the share with the very text of the plain request of the
same seed. Entropies are in nats per token, at temperature 1.

{markdown_table(head, rows)}"""


def _figures(figures: ArmFigures) -> tuple[str, ...]:
    return (
        cell(figures.accuracy),
        cell(figures.pass_at_k),
        f"{figures.majority_at_k.value:.3f}",
        f"{figures.distinct.value:.2f}",
        cell(figures.tokens, 1),
        f"{figures.temperature_mean:.3f}",
        f"{figures.entropy_mean:.3f}",
        f"{figures.cut:.0%}",
        f"{figures.same:.0%}",
    )


def _differences(rows: Iterable[tuple[str, Difference]]) -> str:
    head = ("", "control", "figure", "difference", "", "would have shown")
    return markdown_table(
        head,
        (
            (
                name,
                one.control,
                one.figure,
                interval_text(one.value),
                _verdict(one),
                f"{one.smallest:.3f}",
            )
            for name, one in rows
        ),
    )


def _verdict(difference: Difference) -> str:
    if difference.is_above:
        return "above"
    return "**below**" if difference.is_below else "not told apart"


def _laws(result: EvaluationResult, config: EvaluateConfig) -> str:
    rows = [(name, one) for name, found in result.laws.items() for one in found]
    rows += [(result.best_fixed, one) for one in result.fixed]
    if not rows:
        return ""
    return f"""## Laws and truncations beside their controls

Every row is the law or truncation minus the control on the same questions. A law whose temperatures
help only by their amount is not told apart from the same temperatures in random order. On the
{result.num_choosing} questions that chose, `{result.best_fixed}` was the most accurate fixed
temperature{_chosen(result)}.
The last column is the difference that so many questions show in 80 % of experiments.

{_differences(rows)}"""


def _trees(result: EvaluationResult) -> str:
    if not result.trees:
        return ""
    head = ("arm", "accuracy by trees", "unseen", "own answers minus trees")
    rows = [
        (
            name,
            cell(one.accuracy),
            f"{one.unseen:.1%}",
            "" if one.counted_minus_tree is None else interval_text(one.counted_minus_tree),
        )
        for name, one in result.trees.items()
    ]
    return f"""## Answer trees

The answers of the fixed temperatures and the laws form a tree for each question, in which every
answer has a probability under every arm: one that was drawn counts by it, and of the rest,
`unseen`, the right share is estimated. Arms without a last column were computed, not drawn. Where
its interval leaves out 0, do not rely on the trees: 20 alternatives tell too little about long
answers at high temperatures.

{markdown_table(head, rows)}"""


def _profiles(result: EvaluationResult) -> str:
    if not result.profiles:
        return ""
    rows = [(name, one) for name, found in result.profiles.items() for one in found]
    return f"""## Profiles beside the plain request

Every row is the profile minus the plain request on the same questions. This shows whether a profile
costs accuracy, not whether its law is worth anything: a gain may be that of a lower temperature,
which matched controls would tell.
The last column is the difference that so many questions show in 80 % of experiments.

{_differences(rows)}"""


def _chosen(result: EvaluationResult) -> str:
    return "" if result.best_law is None else f", `{result.best_law}` the most accurate of these"


def _router(name: str, router: RouterResult) -> str:
    rows = [
        (choice, cell(accuracy), cell(tokens, 1))
        for choice, (accuracy, tokens) in router.choices.items()
    ]
    shares = ", ".join(f"{share:.0%} {word}" for word, share in router.shares.items())
    return f"""## Router `{name}`

It chose {shares}. The table by kind, TF-IDF and length predict accuracy and tokens of every
strategy, learn on the questions that chose, and spend as many tokens there as the router. The split
oracle chooses on half of the answers to a question and is scored on the others.

{markdown_table(("", "accuracy", "tokens"), rows)}

{_differences((name, one) for one in router.differences)}"""


def _skipped(result: EvaluationResult) -> str:
    if not result.skipped:
        return ""
    lines = [f"- `{one.name}`: {one.reason}" for one in result.skipped]
    return "## Not measured\n\n" + "\n".join(lines)


def _plain_method(result: EvaluationResult, config: EvaluateConfig) -> str:
    k = config.votes
    return f"""## How it was measured

Requests have T0 = {config.temperature:g} unless a profile says otherwise; the same sample of a
question has the same seed in every arm. All {result.num_scoring} questions score.
pass@{k} is unbiased from {config.samples} answers. Intervals are 95 % paired bootstraps over
questions; "above" and "below" mean that the interval leaves out 0. Nothing is corrected for looking
at many rows."""


def _method(result: EvaluationResult, config: EvaluateConfig) -> str:
    return f"""## How it was measured

{result.num_choosing} questions choose: the best fixed temperature, the temperatures of the matched
controls, the router's controls. The other {result.num_scoring} score. Requests have T0 =
{config.temperature:g} unless an arm says otherwise; the same sample of a question has the same seed
in every arm. pass@{config.votes} and maj@{config.votes} are unbiased from {config.samples} answers.
Intervals are 95 % paired bootstraps over questions; "above" and "below" mean that the interval
leaves out 0. Nothing is corrected for looking at many rows: what `recommended.toml` has was chosen
on the other questions."""
