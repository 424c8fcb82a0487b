"""`train-probe`: makes the artifacts that a server acts with. `--help` imports no torch."""

import sys
from collections.abc import Sequence

import typer

from training.cli.options import add_job, print_settings
from training.decisions.config import DecisionsConfig
from training.difficulty.config import DifficultyConfig
from training.inquiry.config import InquiryConfig
from training.selective.config import AbstainConfig, ConfidenceConfig, SemanticConfig
from training.temperature.config import TemperatureConfig

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make the artifacts that a server acts with.",
)


def train_probe(argv: Sequence[str] | None = None) -> None:
    """Run `train-probe COMMAND ...`; what follows `--` are flags of `entrostat serve`."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    app(args=words[:cut], obj=tuple(words[cut + 1 :]), prog_name="train-probe")


def temperature(config: TemperatureConfig, dry_run: bool) -> None:
    """Fit the entropy statistics that the law `hapo` needs.

    Samples the model through a server, measures the entropy of every token and writes an
    `entropy-statistics` artifact and a report. What follows `--` goes to `entrostat serve`.

    For example:

        train-probe temperature

        train-probe temperature ./checkpoint --prompts mine.jsonl -- --dtype float32

        train-probe temperature --server http://127.0.0.1:8000 --tokens 100000
    """
    from rich.console import Console

    from training.temperature.job import check, cost, train_temperature

    if dry_run:
        print_settings(config, cost(config, check(config)))
    else:
        train_temperature(config, Console())


def difficulty(config: DifficultyConfig, dry_run: bool) -> None:
    """Train the probe that tells easy, normal and hard questions apart (DiffAdapt).

    Samples answers to questions with known answers through a server, grades them, labels each
    question by accuracy and entropy, and fits a probe on the model's hidden state. Writes a
    `difficulty-probe` artifact and a report. What follows `--` goes to `entrostat serve`.

    For example:

        train-probe difficulty

        train-probe difficulty --task mine.jsonl --grader numeric --problems 1000

        train-probe difficulty --server http://127.0.0.1:8000,http://127.0.0.1:8001
    """
    from rich.console import Console

    from training.difficulty.job import check, cost, train_difficulty

    if dry_run:
        print_settings(config, cost(config, check(config)))
    else:
        train_difficulty(config, Console())


def inquiry(config: InquiryConfig, dry_run: bool) -> None:
    """Calibrate a game of questions, so that the next one shrinks the set of answers (C-IP).

    Reads the log-likelihood of every statement of the task, learns from half of the labels what it
    says about the answers, and calibrates prediction sets on the others. Writes an
    `inquiry-calibration` artifact and a report. What follows `--` goes to `entrostat serve`.

    For example:

        train-probe inquiry

        train-probe inquiry --task mine.json --server http://127.0.0.1:8000
    """
    from rich.console import Console

    from training.inquiry.job import check, cost, train_inquiry

    if dry_run:
        print_settings(config, cost(config, check(config)))
    else:
        train_inquiry(config, Console())


def decisions(config: DecisionsConfig, dry_run: bool) -> None:
    """Calibrate `/v1/decisions` on rows with known answers.

    Reads every row through a server, scales the probabilities, calibrates prediction sets and
    measures both on held-out rows. Writes a `decision-calibration` artifact and a report. What
    follows `--` goes to `entrostat serve`.

    For example:

        train-probe decisions

        train-probe decisions mine.jsonl --level 0.95

        train-probe decisions mine.csv --instructions "Which team?" --server http://127.0.0.1:8000
    """
    from rich.console import Console

    from training.decisions.job import check, cost, train_decisions

    if dry_run:
        print_settings(config, cost(config, check(config)))
    else:
        train_decisions(config, Console())


def confidence(config: ConfidenceConfig, dry_run: bool) -> None:
    """Fit the probability that an answer is right to the scores of its report.

    Draws answers to questions with known answers through a server, or reads graded answers from a
    file, and chooses scores and calibration by cross-validation over questions. Writes a
    `confidence` artifact and a report that compares it with every single score. What follows `--`
    goes to `entrostat serve`.

    For example:

        train-probe confidence quiz

        train-probe confidence mine.jsonl --grader numeric --server http://127.0.0.1:8000

        train-probe confidence graded.jsonl --name my-model/confidence --checkpoint ./checkpoint
    """
    from rich.console import Console

    from training.selective.answers import check, cost
    from training.selective.confidence import train_confidence

    if dry_run:
        print_settings(config, cost(config, check(config), config.samples))
    else:
        train_confidence(config, Console())


def semantic(config: SemanticConfig, dry_run: bool) -> None:
    """Fit a probe that predicts from the prompt alone whether answers will disagree (SEP).

    Draws several answers to each question through a server, or reads them from the rows of such a
    run, takes the semantic entropy of all but the first, and fits the hidden state at the end of
    the prompt to it. Answers are grouped as by `"cluster": "answer"`: numbers by value, others word
    for word; the model is not asked which say the same. Writes a `confidence` artifact that reports
    `high_entropy`, and a report that compares it with a probe of accuracy on the same states. What
    follows `--` goes to `entrostat serve`.

    For example:

        train-probe semantic quiz

        train-probe semantic mine.jsonl --grader numeric --server http://127.0.0.1:8000
    """
    from rich.console import Console

    from training.selective.answers import check, cost
    from training.selective.semantic import train_semantic

    if dry_run:
        print_settings(config, cost(config, check(config), config.samples + 1))
    else:
        train_semantic(config, Console())


def abstain(config: AbstainConfig, dry_run: bool) -> None:
    """Calibrate when to decline, with a promise about wrong answers.

    Draws one answer to each question through a server, or reads graded answers from a file. Writes
    an `abstention` artifact and a report with the rates of both promises. Use other questions than
    those of the confidence probe. What follows `--` goes to `entrostat serve`.

    For example:

        train-probe abstain quiz --score entropy_mean

        train-probe abstain graded.jsonl --name my-model/abstain --checkpoint ./checkpoint

        train-probe abstain mine.jsonl --score probability --probe my-model/confidence --seed 1
    """
    from rich.console import Console

    from training.selective.abstain import train_abstention
    from training.selective.answers import check, cost

    if dry_run:
        print_settings(config, cost(config, check(config), 1))
    else:
        train_abstention(config, Console())


add_job(app, "temperature", TemperatureConfig, temperature)
add_job(app, "difficulty", DifficultyConfig, difficulty)
add_job(app, "inquiry", InquiryConfig, inquiry)
add_job(app, "decisions", DecisionsConfig, decisions)
add_job(app, "confidence", ConfidenceConfig, confidence)
add_job(app, "semantic", SemanticConfig, semantic)
add_job(app, "abstain", AbstainConfig, abstain)
