"""Whether what is reported is what happened: `python -m benchmarks.truth`.

A server's entropies and temperatures, token by token, beside those that transformers computes for
the same text; and steered answers beside transformers with a hook that adds the same vector.
"""

import asyncio
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import openai
import torch
import typer
from rich.console import Console
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks import machine
from benchmarks.steering.vectors import random_vectors, save_random, vector_name
from clients.entropy import controls, entropy_target, report, steer
from clients.local_server import local_server, serve_command
from probes.entropy import entropy_from_logits
from server.commands.default_model import DEFAULT_MODEL, default_model
from server.settings import settings
from training.common.prompts import load_prompts

TARGET = 1.0
STEERED, STRENGTH = [12, 20], 0.6
"""Layers with a random vector, and how much of it."""
_T_MIN, _T_MAX = 0.1, 2.0
_TOKENS = 40
_HEADER = ["server", "transformers", "tokens", "mean difference", "99th percentile", "largest"]
_METHOD = """\
{prompts} of the shipped prompts, {tokens} tokens each at temperature 1, seeded. `mean difference`
is that of the reported entropy and the entropy of transformers' logits for the same tokens, in
nats. In bfloat16 two correct programs differ, because they round at different places: the row that
compares with float32 shows how far rounding alone moves an entropy. Under `entropy_target` {target}
the entropy of the distribution that was sampled from is computed from transformers' logits and the
reported temperature, over the tokens whose temperature is not at a limit."""
_STEERING = """\
The same prompts, {tokens} tokens each, greedy, with {strength} of a random vector (standard normal)
behind layers {layers}, from the last prompt token on; steered and unsteered requests share their
batches. transformers adds the same with a hook. `agrees`: the token is the one with the largest
logit there. In bfloat16 the two largest logits are often equal or neighbors; `within rounding`
also counts tokens whose logit is at most one bfloat16 step below the largest. The rows without
steering are the control: what differs there is not due to steering. `moved`: tokens that
transformers without the hook would not have chosen."""


class Answer(NamedTuple):
    """One answer and what was reported about it."""

    prompt: list[int]
    tokens: list[int]
    entropy: list[float | None]
    temperature: list[float | None]


def main(
    dtypes: Annotated[str, typer.Option(help="Of the server, by commas.")] = "float32,bfloat16",
    prompts: Annotated[int, typer.Option(help="How many prompts.")] = 24,
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Compare and write truth.md."""
    console, facts = Console(), machine.describe("benchmarks.truth")
    checkpoint, texts = default_model(settings().cache), load_prompts(None)[:prompts]
    rows, targets, steering = list[list[str]](), list[list[str]](), list[list[str]]()
    for dtype in dtypes.split(","):
        root = Path(tempfile.mkdtemp(prefix="entrostat-truth-"))
        save_random(root / "artifacts", checkpoint, STEERED, 1)
        flags = ("--dtype", dtype, "--enforce-eager", "--artifacts", str(root / "artifacts"))
        with local_server(serve_command(None, flags), root / "server.log", console) as url:
            plain = asyncio.run(_ask(url, texts, controls(trace="tokens")))
            law = entropy_target(TARGET)
            held = asyncio.run(_ask(url, texts, controls(law, trace="tokens")))
            greedy = asyncio.run(_ask_both(url, texts))
        shutil.rmtree(root)
        for reference in dict.fromkeys((dtype, "float32")):
            model = AutoModelForCausalLM.from_pretrained(
                checkpoint, dtype=getattr(torch, reference)
            ).eval()
            rows.append([dtype, reference, *_difference(model, plain)])
            if reference == dtype:
                targets.append([dtype, *_held(model, held)])
                for name, answers in zip(("steered", "unsteered"), greedy, strict=True):
                    row = _agreement(model, answers, steered=name == "steered")
                    steering.append([dtype, name, *row])
    console.print("\n".join(_table(_HEADER, rows)))
    facts_lines = machine.markdown(facts)
    lines = ["# Whether the report is true", "", *facts_lines, f"- model: {DEFAULT_MODEL}", ""]
    lines += [_METHOD.format(prompts=prompts, tokens=_TOKENS, target=TARGET), ""]
    lines += [*_table(_HEADER, rows), "", f"## `entropy_target` {TARGET}", ""]
    header = ["server", "tokens", "at a limit", "mean entropy of the others", "standard deviation"]
    lines += [*_table(header, targets), "", "## Steering", ""]
    lines += [_STEERING.format(tokens=_TOKENS, strength=STRENGTH, layers="12 and 20"), ""]
    header = ["server and transformers", "requests", "tokens", "agrees", "within rounding"]
    lines += _table([*header, "moved", "mean difference of entropy"], steering)
    output.mkdir(parents=True, exist_ok=True)
    (output / "truth.md").write_text("\n".join(lines) + "\n")


async def _ask_both(url: str, texts: list[str]) -> tuple[list[Answer], list[Answer]]:
    """Steered and unsteered answers, greedy, at the same time."""
    steered = controls(steering=[steer(vector_name(0), STRENGTH)], trace="tokens")
    return await asyncio.gather(
        _ask(url, texts, steered, 0.0), _ask(url, texts, controls(trace="tokens"), 0.0)
    )


async def _ask(
    url: str, texts: list[str], extra: dict[str, Any], base: float = 1.0
) -> list[Answer]:
    async with openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600) as client:

        async def one(number: int, text: str) -> Answer:
            answer = await client.chat.completions.create(
                model=DEFAULT_MODEL,
                messages=[{"role": "user", "content": text}],
                max_completion_tokens=_TOKENS,
                temperature=base,
                seed=number,
                extra_body={**extra, "return_token_ids": True},
            )
            reported = report(answer.choices[0])
            assert reported is not None
            assert reported.tokens is not None
            entropy = [token.entropy for token in reported.tokens]
            temperature = [token.temperature for token in reported.tokens]
            body: Any = answer.model_dump()
            tokens = body["choices"][0]["token_ids"]
            assert len(tokens) == len(entropy) == len(temperature)
            return Answer(body["prompt_token_ids"], tokens, entropy, temperature)

        return await asyncio.gather(*(one(number, text) for number, text in enumerate(texts)))


def _logits(model: Any, answer: Answer) -> Tensor:
    with torch.inference_mode():
        out = model(torch.tensor([answer.prompt + answer.tokens])).logits
    logits: Tensor = out[0, len(answer.prompt) - 1 : -1].float()
    return logits


def _difference(model: Any, answers: list[Answer]) -> list[str]:
    gaps = torch.cat(
        [
            (torch.tensor(one.entropy) - entropy_from_logits(_logits(model, one))).abs()
            for one in answers
        ]
    )
    figures = (gaps.mean(), gaps.quantile(0.99), gaps.max())
    return [str(len(gaps)), *(f"{float(figure):.2e}" for figure in figures)]


@contextmanager
def _added(model: Any, start: int) -> Iterator[None]:
    """Add to the residual stream of transformers' model from a position on."""
    handles = []
    for layer, vector in random_vectors(model.config.hidden_size, STEERED, 0).items():

        def add(_: Any, __: Any, output: Any, move: Tensor = vector * STRENGTH) -> None:
            stream = output[0] if isinstance(output, tuple) else output
            stream[:, start:] += move.to(stream.dtype)

        handles.append(model.model.layers[layer].register_forward_hook(add))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _agreement(model: Any, answers: list[Answer], *, steered: bool) -> list[str]:
    tokens, gaps, steps, moved, entropy = [], [], [], [], []
    for one in answers:
        plain = _logits(model, one)
        with _added(model, len(one.prompt) - 1) if steered else nullcontext():
            logits = _logits(model, one)
        chosen = torch.tensor(one.tokens)
        top = logits.max(-1).values
        gaps.append(top - logits.gather(1, chosen.unsqueeze(1)).squeeze(1))
        steps.append(2.0 ** (top.abs().log2().floor() - 7))  # bfloat16 has eight bits of precision
        tokens.append(logits.argmax(-1) == chosen)
        moved.append(plain.argmax(-1) != chosen)
        entropy.append((entropy_from_logits(logits) - torch.tensor(one.entropy)).abs())
    agrees, gap, step = torch.cat(tokens), torch.cat(gaps), torch.cat(steps)
    shares = (agrees, agrees | (gap <= step), torch.cat(moved))
    figures = [f"{float(share.float().mean()):.2%}" for share in shares]
    return [str(len(agrees)), *figures, f"{float(torch.cat(entropy).mean()):.2e}"]


def _held(model: Any, answers: list[Answer]) -> list[str]:
    temperature = torch.cat([torch.tensor(one.temperature) for one in answers])
    applied = torch.cat(
        [entropy_from_logits(_logits(model, one), torch.tensor(one.temperature)) for one in answers]
    )
    inside = (temperature > _T_MIN + 1e-4) & (temperature < _T_MAX - 1e-4)
    mean, spread = applied[inside].mean(), applied[inside].std()
    clamped = f"{int((~inside).sum())}"
    return [str(len(applied)), clamped, f"{float(mean):.4f}", f"{float(spread):.4f}"]


def _table(header: list[str], rows: list[list[str]]) -> list[str]:
    return [f"| {' | '.join(line)} |" for line in [header, ["---"] * len(header), *rows]]


if __name__ == "__main__":
    typer.run(main)
