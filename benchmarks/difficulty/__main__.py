"""What a difficulty probe saves: `python -m benchmarks.difficulty --help`.

Every held-out question is answered by each of the probe's three strategies, and by the server with
the probe in charge. From the first come all arms that choose a strategy for each question (fixed,
at random, by shuffled labels, by an oracle); the last shows that serving does what they promise.
"""

import asyncio
import json
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import openai
import typer
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks import machine
from benchmarks.difficulty.arms import PERMUTATIONS, Arm, Labels, all_arms
from benchmarks.difficulty.budgets import fixed_budgets
from benchmarks.difficulty.page import Result, write
from clients.entropy import controls, difficulty, report
from probes.artifact import Artifact
from probes.difficulty.strategies import Difficulty
from probes.graders import GraderName
from training.common.hidden_states import hidden_states
from training.common.server_pool import request_seed
from training.datasets.loaders import load_problems
from training.datasets.problem import Problem
from training.difficulty.config import AnswersConfig
from training.difficulty.labels import draw_answers, grade_answers

_HOW = """\
The probe was not fitted on these questions. The arm `probe, as served` is what the server answered
with the probe in charge; the others are put together from the answers by each strategy."""


class ServedArm(NamedTuple):
    """What the server made of every question with the probe in charge."""

    arm: Arm
    labels: Labels
    prepass: int
    """Tokens generated ahead of each answer: 1 with a pre-pass, else 0."""


def main(
    artifact: Annotated[Path, typer.Option(help="Folder of the probe.")],
    run: Annotated[Path, typer.Option(help="Run folder that the probe was trained in.")],
    server: Annotated[str, typer.Option(help="A server that has the probe.")],
    task: Annotated[
        str | None,
        typer.Option(
            help="New questions, as `train-probe difficulty` has it; without it those that the "
            "run held out, whose answers are there already where the labels are outcomes."
        ),
    ] = None,
    problems: Annotated[int, typer.Option(help="How many new questions.")] = 150,
    samples: Annotated[int, typer.Option(help="Answers to each, by each arm.")] = 4,
    grader: Annotated[GraderName | None, typer.Option(help="For JSONL that names none.")] = None,
    seed: Annotated[int, typer.Option(help="Same seed, same new questions.")] = 1,
    checkpoint: Annotated[
        Path | None, typer.Option(help="As the run had it, where it had one.")
    ] = None,
    runs: Annotated[Path, typer.Option(help="Folder of runs; goes on there.")] = Path("runs"),
    output: Annotated[Path, typer.Option(help="Folder of the results.")] = Path(
        "benchmarks/results"
    ),
    label: Annotated[str, typer.Option(help="Says what model this is.")] = "",
) -> None:
    """Measure every arm and write difficulty-MODEL.md, .json and .png."""
    console, probe = Console(), Artifact.load(artifact)
    seen = [json.loads(line) for line in (run / "questions.jsonl").read_text().splitlines()]
    facts = machine.describe("benchmarks.difficulty")
    spec, settings = probe.manifest.probe, probe.manifest.settings
    assert spec is not None
    if task is None:
        seed, samples = probe.manifest.seed, int(settings["samples"])
        tasks = str(settings["tasks"]).split(",")
        asked = load_problems(tasks, int(settings["problems"]), seed, grader)
        chosen_ones = [number for number, one in enumerate(seen) if one["held_out"]]
    else:
        tasks = task.split(",")
        asked = new_problems(tasks, problems, seed, grader, seen)
        chosen_ones = list(range(len(asked)))
    questions = [asked[number] for number in chosen_ones]
    job = AnswersConfig(
        server=(server,),
        checkpoint=checkpoint,
        seed=seed,
        out=output,
        runs=runs,
        command=facts["command"],
        samples=samples,
        max_tokens=int(settings["max_tokens"]),
    )
    drawn = [
        asyncio.run(draw_answers(job, (server,), asked, spec.strategies.for_class(one), console))
        for one in Difficulty
    ]
    answers = [grade_answers(asked, one.traces, samples) for one in drawn]
    accuracy = np.stack([one.accuracy.numpy()[chosen_ones] for one in answers])
    tokens = np.stack([one.tokens.numpy()[chosen_ones] for one in answers])
    served = asyncio.run(_serve(job, probe.id, questions))
    shuffled = _shuffled(questions, seen, run, drawn[0].served.root)
    arms = all_arms(accuracy, tokens, served.labels, shuffled, served.prepass)
    arms[served.arm.name] = served.arm
    normal = drawn[Difficulty.NORMAL].traces
    budgets = [
        Arm(name, right[chosen_ones], spent[chosen_ones])
        for name, right, spent in fixed_budgets(
            asked, normal, samples, job.max_tokens, Path(drawn[0].served.root)
        )
    ]
    facts |= {
        "model": label or probe.manifest.model,
        "probe": probe.id,
        "labels": settings.get("labels", "entropy"),
        "tasks": ", ".join(tasks),
        "problems": len(questions),
        "samples": samples,
        "max_tokens": job.max_tokens,
    }
    kinds = np.array([one.task for one in questions])
    probe_arm = served.arm.name
    result = Result(facts, _HOW, probe_arm, arms, budgets, served.labels, kinds, accuracy, tokens)
    write(result, output / f"difficulty-{probe.manifest.model}", console)


def new_problems(
    tasks: list[str], number: int, seed: int, grader: Any, seen: list[dict[str, Any]]
) -> list[Problem]:
    """Questions that the probe was not fitted on, evenly over the tasks."""
    fitted = {question["prompt"] for question in seen if not question["held_out"]}
    share, found = -(-number // len(tasks)), list[Problem]()
    for task in tasks:
        more = load_problems((task,), share + len(fitted), seed, grader)
        found += [problem for problem in more if problem.prompt not in fitted][:share]
    return found[:number]


async def _serve(job: AnswersConfig, probe: str, questions: list[Problem]) -> ServedArm:
    """Ask with the probe in charge."""
    free, number = asyncio.Semaphore(job.concurrency), len(questions) * job.samples
    right, tokens = np.zeros(number), np.zeros(number)
    labels = np.zeros(len(questions), dtype=np.int64)
    base = f"{job.server[0].rstrip('/').removesuffix('/v1')}/v1"
    client = openai.AsyncOpenAI(base_url=base, api_key="none", timeout=600)
    model = (await client.models.list()).data[0].id
    prepasses = set()

    async def ask(index: int) -> None:
        question = questions[index // job.samples]
        async with free:
            answer = await client.chat.completions.create(
                model=model,
                messages=[{"role": "user", "content": question.prompt}],
                max_completion_tokens=job.max_tokens,
                seed=request_seed(job.seed, index),
                extra_body=controls(difficulty=difficulty(probe=probe)),
            )
        reported = report(answer.choices[0])
        assert reported is not None
        assert reported.difficulty is not None
        assert reported.difficulty.label is not None, "the server did not say the class in time"
        extra = 0 if reported.difficulty.prepass_tokens is None else 1
        prepasses.add(extra)
        right[index] = question.is_right(answer.choices[0].message.content or "")
        assert answer.usage is not None
        tokens[index] = answer.usage.completion_tokens + extra
        labels[index // job.samples] = Difficulty[reported.difficulty.label.upper()]

    pending = [asyncio.create_task(ask(index)) for index in range(number)]
    for task in track(asyncio.as_completed(pending), "probe in charge", number, transient=True):
        await task
    await client.close()
    by_question = [column.reshape(-1, job.samples).mean(1) for column in (right, tokens)]
    return ServedArm(Arm("probe, as served", *by_question), labels, max(prepasses))


def _shuffled(
    questions: list[Problem], seen: list[dict[str, Any]], run: Path, checkpoint: str
) -> list[Labels]:
    """What probes say that were fitted to the same states and permuted labels."""
    states, _ = hidden_states(
        Path(checkpoint), [one.prompt for one in questions], lambda count: None
    )
    known = load_file(run / "features.safetensors")["states"].double().numpy()
    truth = np.array([Difficulty[one["label"].upper()] for one in seen])
    fitted = np.array([not one["held_out"] for one in seen])
    model = make_pipeline(
        StandardScaler(), LogisticRegression(C=1e-2, class_weight="balanced", max_iter=2000)
    )
    chance = np.random.default_rng(0)
    return [
        model.fit(known[fitted], chance.permutation(truth[fitted])).predict(states.double().numpy())
        for _ in range(PERMUTATIONS)
    ]


if __name__ == "__main__":
    typer.run(main)
