"""What a difficulty probe costs: `python -m benchmarks.difficulty.cost`.

Time to the first token, and throughput of a full batch, with and without a probe, on one server and
in turns. The probe is the shipped one; for the arm whose strategies change the prompt it is stored
once more with a text for every class.
"""

import asyncio
import itertools
import random
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import openai
import typer
from rich.console import Console
from rich.progress import track

from benchmarks import machine
from clients.entropy import controls, difficulty
from clients.local_server import local_server, serve_command
from probes.artifact import Artifact
from server.artifacts import shipped_artifacts
from server.commands.default_model import DEFAULT_MODEL

PLAIN, SPOKEN = f"{DEFAULT_MODEL}/plain", f"{DEFAULT_MODEL}/spoken"
PROMPT_TOKENS = 300
BATCH, MAX_TOKENS = 16, 64
_TEXT = "Give only the final answer, without any explanation."
_END = 2
"""The default model's end token, which the throughput arms rule out."""
_WORDS = ("river", "stone", "apple", "garden", "winter", "music", "paper", "silver", "window")
_METHOD = """\
One server (eager, prefix cache on), arms in random order within every round. Time to the first
token: one streamed request of about {prompt} prompt tokens that no other shares, {rounds} rounds.
Throughput: {batch} requests at once, {tokens} tokens each with the end token ruled out, {batches}
rounds; every strategy's budget is the whole of `max_tokens` there. Ratios are medians over rounds
of the arm over `no probe` in the same round; intervals are bootstraps over rounds. The second `no
probe` is the control: what its ratio shows is noise."""


class Arm(NamedTuple):
    """A way to ask."""

    name: str
    extra: dict[str, Any]


ARMS = (
    Arm("no probe", {}),
    Arm("no probe, again", {}),
    Arm("probe, prompt unchanged", controls(difficulty=difficulty(probe=PLAIN))),
    Arm("probe, prompt changed", controls(difficulty=difficulty(probe=SPOKEN))),
)


def main(
    rounds: Annotated[int, typer.Option(help="For times to the first token.")] = 40,
    batches: Annotated[int, typer.Option(help="For throughput.")] = 10,
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Measure and write difficulty-cost.md."""
    console, facts = Console(), machine.describe("benchmarks.difficulty.cost")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        save_probes(root)
        command = serve_command(None, ("--artifacts", str(root)))
        with local_server(command, root / "server.log", console) as url:
            first, speed = asyncio.run(_measure(url, rounds, batches))
    lines = ["# What a difficulty probe costs", "", *machine.markdown(facts)]
    lines += [f"- model: {DEFAULT_MODEL}", ""]
    lines += [
        _METHOD.format(
            prompt=PROMPT_TOKENS, rounds=rounds, batch=BATCH, tokens=MAX_TOKENS, batches=batches
        ),
        "",
        *_table("time to the first token, ms", first, 1e3),
        "",
        *_table("tokens/s", speed, 1.0),
    ]
    console.print("\n".join(lines), markup=False, highlight=False)
    output.mkdir(parents=True, exist_ok=True)
    (output / "difficulty-cost.md").write_text("\n".join(lines) + "\n")


def save_probes(root: Path) -> None:
    """The shipped probe under two names, whose strategies differ in the text alone."""
    shipped = Artifact.load(shipped_artifacts() / DEFAULT_MODEL / "difficulty")
    spec = shipped.manifest.probe
    assert spec is not None
    for name, text in ((PLAIN, ""), (SPOKEN, _TEXT)):
        one = spec.strategies.normal.model_copy(update={"prompt": text, "budget": 1.0})
        strategies = spec.strategies.model_copy(
            update=dict.fromkeys(("easy", "normal", "hard"), one)
        )
        probe = spec.model_copy(update={"strategies": strategies})
        manifest = shipped.manifest.model_copy(update={"probe": probe})
        Artifact(id=name, manifest=manifest, tensors=shipped.tensors).save(root)


async def _measure(
    url: str, rounds: int, batches: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    chance, first, speed = random.Random(0), dict[str, list[float]](), dict[str, list[float]]()
    prompts = _prompts()
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600) as client:
        for lap in track(range(-2, rounds), "first tokens", transient=True):
            for arm in chance.sample(ARMS, len(ARMS)):
                seconds = await _first_token(client, arm, next(prompts))
                if lap >= 0:  # the first ones warm up
                    first.setdefault(arm.name, []).append(seconds)
        for lap in track(range(-1, batches), "throughput", transient=True):
            for arm in chance.sample(ARMS, len(ARMS)):
                tokens_per_second = await _throughput(client, arm, prompts)
                if lap >= 0:
                    speed.setdefault(arm.name, []).append(tokens_per_second)
    return first, speed


def _prompts() -> Iterator[str]:
    """Texts whose first words already differ, so that none finds another's prefix."""
    for number in itertools.count():
        chance = random.Random(number)
        words = " ".join(chance.choice(_WORDS) for _ in range(PROMPT_TOKENS - 45))
        yield f"{number} {words}. Which of these words is the longest?"


async def _first_token(client: openai.AsyncOpenAI, arm: Arm, prompt: str) -> float:
    begin = time.perf_counter()
    stream = await client.chat.completions.create(
        model=DEFAULT_MODEL,
        messages=[{"role": "user", "content": prompt}],
        max_completion_tokens=4,
        stream=True,
        extra_body=arm.extra,
    )
    seconds = None
    async for chunk in stream:
        if seconds is None and chunk.choices and chunk.choices[0].delta.content:
            seconds = time.perf_counter() - begin
    assert seconds is not None, "no token came"
    return seconds


async def _throughput(client: openai.AsyncOpenAI, arm: Arm, prompts: Iterator[str]) -> float:
    begin = time.perf_counter()
    answers = await asyncio.gather(
        *(
            client.chat.completions.create(
                model=DEFAULT_MODEL,
                messages=[{"role": "user", "content": next(prompts)[:60]}],
                max_completion_tokens=MAX_TOKENS,
                logit_bias={str(_END): -100},
                extra_body=arm.extra,
            )
            for _ in range(BATCH)
        )
    )
    seconds = time.perf_counter() - begin
    for answer in answers:
        assert answer.usage is not None
        assert answer.usage.completion_tokens == MAX_TOKENS, answer.usage
    return BATCH * MAX_TOKENS / seconds


def _table(unit: str, samples: dict[str, list[float]], factor: float) -> list[str]:
    base = np.array(samples[ARMS[0].name])
    lines = [f"| arm | {unit} | ratio to no probe | 95 % interval |", "|---|--:|--:|--:|"]
    for arm in ARMS:
        ratios = np.array(samples[arm.name]) / base
        draws = np.random.default_rng(0).choice(ratios, (10_000, len(ratios)))
        low, high = np.quantile(np.median(draws, axis=1), (0.025, 0.975))
        middle = np.median(samples[arm.name]) * factor
        cells = (
            ("", "") if arm is ARMS[0] else (f"{np.median(ratios):.3f}", f"{low:.3f} to {high:.3f}")
        )
        lines.append(f"| {arm.name} | {middle:.1f} | {' | '.join(cells)} |")
    return lines


if __name__ == "__main__":
    typer.run(main)
