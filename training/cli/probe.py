"""`train-probe`: makes the artifacts that a server acts with. `--help` imports no torch."""

import errno
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

_app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Make the artifacts that a server acts with.",
)

Model = Annotated[
    str | None,
    typer.Argument(help="Checkpoint to serve for this; without it the embedded default."),
]
ServerOption = Annotated[
    str | None,
    typer.Option(help="Use running servers instead: one address or several, by commas."),
]
CheckpointOption = Annotated[
    Path | None,
    typer.Option(help="Folder of the model's files, where the server's own is not here."),
]
SeedOption = Annotated[int, typer.Option(help="Same seed, same requests.")]
ConcurrencyOption = Annotated[int, typer.Option(min=1, help="Requests at once.")]
OutOption = Annotated[Path, typer.Option(help="Folder of artifacts.")]
RunsOption = Annotated[
    Path, typer.Option(help="Folder of runs; the same command goes on where it stopped.")
]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Start the run over.")]


def train_probe(argv: Sequence[str] | None = None) -> None:
    """Run `train-probe COMMAND ...`; what follows `--` are flags of `entrostat serve`."""
    words = list(sys.argv[1:] if argv is None else argv)
    cut = words.index("--") if "--" in words else len(words)
    _app(args=words[:cut], obj=tuple(words[cut + 1 :]), prog_name="train-probe")


@_app.command()
def temperature(
    ctx: typer.Context,
    model: Model = None,
    server: ServerOption = None,
    checkpoint: CheckpointOption = None,
    prompts: Annotated[
        Path | None,
        typer.Option(help="JSONL, a `prompt` per line; without it the shipped ones."),
    ] = None,
    tokens: Annotated[
        int, typer.Option(max=10_000_000, help="How many tokens to sample, 2000 or more.")
    ] = 20_000,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 256,
    temperature: Annotated[
        float, typer.Option(min=0.01, max=2.0, help="Temperature of the answers.")
    ] = 1.0,
    quantile: Annotated[
        float, typer.Option(min=0.01, max=0.99, help="Quantile of ln H that stays at T0.")
    ] = 0.8,
    tail: Annotated[
        float, typer.Option(min=0.0, max=0.2, help="Share of tokens beyond each limit.")
    ] = 0.01,
    seed: SeedOption = 0,
    concurrency: ConcurrencyOption = 16,
    out: OutOption = Path("artifacts"),
    name: Annotated[
        str | None, typer.Option(help="Id of the artifact, MODEL/NAME; else MODEL/entropy.")
    ] = None,
    runs: RunsOption = Path("runs"),
    fresh: FreshOption = False,
) -> None:
    """Fit the entropy statistics that the law `hapo` needs.

    Samples the model through a server, measures the entropy of every token and writes an
    `entropy-statistics` artifact and a report. What follows `--` goes to `entrostat serve`.

    For example:

        train-probe temperature

        train-probe temperature ./checkpoint --prompts mine.jsonl -- --dtype float32

        train-probe temperature --server http://127.0.0.1:8000 --tokens 100000
    """
    with _errors("temperature"):
        from rich.console import Console

        from training.temperature.job import TemperatureJob, train_temperature

        job = TemperatureJob(
            model=model,
            servers=_addresses(server),
            serve_flags=ctx.obj,
            checkpoint=checkpoint,
            prompts=prompts,
            tokens=tokens,
            max_tokens=max_tokens,
            temperature=temperature,
            quantile=quantile,
            tail=tail,
            seed=seed,
            concurrency=concurrency,
            out=out,
            name=name,
            runs=runs,
            fresh=fresh,
            command=_command(),
        )
        train_temperature(job, Console())


@_app.command()
def difficulty(
    ctx: typer.Context,
    model: Model = None,
    server: ServerOption = None,
    checkpoint: CheckpointOption = None,
    task: Annotated[
        str,
        typer.Option(
            help="Questions, by commas: arithmetic, words, facts, quiz, a JSONL file with "
            "`prompt` and `answer`, openai/gsm8k, HuggingFaceH4/MATH-500."
        ),
    ] = "arithmetic,words,facts",
    grader: Annotated[
        str | None,
        typer.Option(help="For JSONL: exact, contains, numeric, math or choice."),
    ] = None,
    problems: Annotated[int, typer.Option(min=50, help="How many questions.")] = 450,
    samples: Annotated[int, typer.Option(min=2, help="Answers to each.")] = 6,
    max_tokens: Annotated[int, typer.Option(min=16, help="Longest answer.")] = 96,
    strategies: Annotated[
        str,
        typer.Option(
            help="How each class is answered: `think` (the answer alone, step by step, or an "
            "outline), `short` (the answer alone, as it is, or a word that it is not known), "
            "`plain` (no text is added), or a TOML file."
        ),
    ] = "think",
    labels: Annotated[
        str,
        typer.Option(
            help="`entropy`: by accuracy and entropy of the answers by the strategy normal, as in "
            "the paper. `outcome`: by the answers by all three, which takes three times as many."
        ),
    ] = "entropy",
    alpha: Annotated[
        float | None, typer.Option(min=0, max=1, help="Least accuracy of a normal question.")
    ] = None,
    beta: Annotated[
        float | None, typer.Option(min=0, help="Largest entropy of a normal question, nats.")
    ] = None,
    gamma: Annotated[
        float | None, typer.Option(min=0, max=1, help="Less accuracy than this is hard.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0, max=1, help="Accuracy that a cheaper strategy may lose, with outcome; else 0."
        ),
    ] = None,
    head: Annotated[str, typer.Option(help="auto, linear or mlp.")] = "auto",
    seed: SeedOption = 0,
    concurrency: ConcurrencyOption = 16,
    out: OutOption = Path("artifacts"),
    name: Annotated[
        str | None, typer.Option(help="Id of the artifact, MODEL/NAME; else MODEL/difficulty.")
    ] = None,
    runs: RunsOption = Path("runs"),
    fresh: FreshOption = False,
) -> None:
    """Train the probe that tells easy, normal and hard questions apart (DiffAdapt).

    Samples answers to questions with known answers through a server, grades them, labels each
    question by accuracy and entropy, and fits a probe on the model's hidden state. Writes a
    `difficulty-probe` artifact and a report. What follows `--` goes to `entrostat serve`.

    For example:

        train-probe difficulty

        train-probe difficulty --task mine.jsonl --grader numeric --problems 1000

        train-probe difficulty --server http://127.0.0.1:8000,http://127.0.0.1:8001
    """
    with _errors("difficulty"):
        from rich.console import Console

        from training.difficulty.job import DifficultyJob, train_difficulty

        job = DifficultyJob(
            model=model,
            servers=_addresses(server),
            serve_flags=ctx.obj,
            checkpoint=checkpoint,
            tasks=tuple(part.strip() for part in task.split(",")),
            grader=_one_of("--grader", grader, "exact contains numeric math choice"),
            problems=problems,
            samples=samples,
            max_tokens=max_tokens,
            strategies=strategies,
            labels=_one_of("--labels", labels, "entropy outcome"),
            alpha=alpha,
            beta=beta,
            gamma=gamma,
            tolerance=tolerance,
            head=_one_of("--head", head, "auto linear mlp"),
            seed=seed,
            concurrency=concurrency,
            out=out,
            name=name,
            runs=runs,
            fresh=fresh,
            command=_command(),
        )
        train_difficulty(job, Console())


@_app.command()
def inquiry(
    ctx: typer.Context,
    model: Model = None,
    server: ServerOption = None,
    checkpoint: CheckpointOption = None,
    task: Annotated[
        str, typer.Option(help="animals, triage, or a JSON file of your own.")
    ] = "animals",
    samples: Annotated[
        int, typer.Option(min=20, max=100_000, help="Calibration histories of each length.")
    ] = 1000,
    lengths: Annotated[
        int, typer.Option(min=1, max=200, help="Longest calibrated history, in answers.")
    ] = 25,
    direct: Annotated[
        int,
        typer.Option(
            min=0, help="The same for the predictor `direct`, a forward each; 0 leaves it out."
        ),
    ] = 0,
    direct_lengths: Annotated[
        int, typer.Option(min=1, max=200, help="Longest history of the predictor `direct`.")
    ] = 8,
    games: Annotated[int, typer.Option(min=10, help="Simulated games of each rule.")] = 200,
    level: Annotated[
        float, typer.Option(help="Confidence level to measure at; a server takes any.")
    ] = 0.9,
    ridge: Annotated[
        float, typer.Option(min=0.01, help="Pull of all questions on each one; 1 is a few labels.")
    ] = 1.0,
    seed: SeedOption = 0,
    concurrency: ConcurrencyOption = 64,
    out: OutOption = Path("artifacts"),
    name: Annotated[
        str | None, typer.Option(help="Id of the artifact, MODEL/NAME; else MODEL/TASK.")
    ] = None,
    runs: RunsOption = Path("runs"),
    fresh: FreshOption = False,
) -> None:
    """Calibrate a game of questions, so that the next one shrinks the set of answers (C-IP).

    Reads how likely the model holds every statement of the task, learns from half of the labels
    what that says about the answers, and calibrates prediction sets on the others. Writes an
    `inquiry-calibration` artifact and a report. What follows `--` goes to `entrostat serve`.

    For example:

        train-probe inquiry

        train-probe inquiry --task mine.json --server http://127.0.0.1:8000
    """
    with _errors("inquiry"):
        from rich.console import Console

        from training.inquiry.job import InquiryJob, train_inquiry

        job = InquiryJob(
            model=model,
            servers=_addresses(server),
            serve_flags=ctx.obj,
            checkpoint=checkpoint,
            task=task,
            samples=samples,
            lengths=lengths,
            direct=direct,
            direct_lengths=direct_lengths,
            games=games,
            level=level,
            ridge=ridge,
            seed=seed,
            concurrency=concurrency,
            out=out,
            name=name,
            runs=runs,
            fresh=fresh,
            command=_command(),
        )
        train_inquiry(job, Console())


def _addresses(server: str | None) -> tuple[str, ...]:
    return () if server is None else tuple(url.strip() for url in server.split(","))


def _command() -> str:
    return shlex.join(["train-probe", *sys.argv[1:]])


def _one_of(option: str, value: str | None, words: str) -> Any:
    from training.common.errors import TrainingError

    if value is not None and value not in words.split():
        raise TrainingError(f"{option} `{value}`: one of {', '.join(words.split())}")
    return value


def _errors(command: str) -> AbstractContextManager[None]:
    return one_sentence_errors(f"train-probe {command}")


@contextmanager
def one_sentence_errors(command: str) -> Iterator[None]:
    """One sentence, begun by `command`, and exit code 2 for what the user can mend."""
    from training.common.errors import TrainingError

    signal.signal(signal.SIGTERM, _leave)
    os.environ.setdefault("NO_PROXY", "127.0.0.1")  # a server started here is never behind a proxy
    try:
        yield
    except TrainingError as error:
        _fail(command, error)
    except ModuleNotFoundError as error:
        _fail(command, f"needs {error.name}: run `pip install 'entrostat[train]'`")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _fail(command, f"{error}: free some, and the same command goes on from here")
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None


def _leave(signum: int, frame: object) -> None:
    """Unwind on SIGTERM, so that a server started here is stopped too."""
    raise SystemExit(143)


def _fail(command: str, message: object) -> None:
    print(f"{command}: {message}", file=sys.stderr)
    raise SystemExit(2)
