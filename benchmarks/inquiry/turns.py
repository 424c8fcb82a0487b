"""What a turn of an inquiry costs: `python -m benchmarks.inquiry.turns --help`.

Every turn here is one that the server has not seen: it remembers what it read, and would answer
from memory. Run it beside a server that nobody else uses, started with
`--enable-prompt-tokens-details`.
"""

from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Annotated, Any, NamedTuple

import openai
import torch
import typer
from rich.progress import track

from benchmarks import machine
from benchmarks.inquiry.served import Player
from probes.artifact import Artifact
from training.inquiry.simulate import true_answers


class Kind(NamedTuple):
    """A kind of turn."""

    name: str
    control: dict[str, Any]
    answers: int
    """In the history."""
    reply: str | None = None
    """What the user says last; None for the task's own word."""


KINDS = [
    Kind("likelihood", {"predictor": "likelihood"}, 8),
    Kind("likelihood, a reply in free text", {"predictor": "likelihood"}, 8, "hardly ever, {}"),
    Kind("direct, 64 candidates, 0 answers", {"predictor": "direct"}, 0),
    Kind("direct, 64 candidates, 4 answers", {"predictor": "direct"}, 4),
    Kind("direct, 64 candidates, 8 answers", {"predictor": "direct"}, 8),
    Kind("likelihood, open questions", {"predictor": "likelihood", "queries": "open"}, 4),
    Kind("direct, open questions", {"predictor": "direct", "queries": "open"}, 4),
]


def main(
    artifact: Annotated[Path, typer.Argument(help="Folder of an inquiry calibration.")],
    server: Annotated[str, typer.Option(help="Base URL of the server, with its /v1.")],
    turns: Annotated[int, typer.Option(help="Turns of each kind.")] = 5,
    note: Annotated[
        str, typer.Option(help="How the server was started.")
    ] = "`entrostat serve --enable-prompt-tokens-details`",
    output: Annotated[Path, typer.Option(help="The page.")] = Path(
        "benchmarks/results/inquiry-turns.md"
    ),
) -> None:
    """Play single turns and write a page."""
    facts = machine.describe("benchmarks.inquiry.turns")
    loaded = Artifact.load(artifact)
    assert loaded.manifest.inquiry is not None
    task = loaded.manifest.inquiry.task
    client = openai.OpenAI(base_url=server, api_key="none", timeout=600)
    player = Player(client, loaded.manifest.model, loaded.id, task, 20, 64)
    found: dict[str, list[dict[str, Any]]] = {}
    for kind in track(KINDS, "turns"):
        for history, reply in _histories(player, kind, turns):
            report = player.turn(history, reply=reply, **kind.control)
            found.setdefault(kind.name, []).append(report)
    lines = [
        "# What a turn of an inquiry costs",
        "",
        *machine.markdown(facts),
        "",
        f"The server: {note}, `{loaded.id}`. {turns} turns of each kind, none seen before; a turn "
        "that was is answered from memory. Forwards count every sampled token, prompt tokens are "
        "those of one forward. Hit rate is the share of the prompts' tokens that the prefix cache "
        "had; read anew is what it had not, per forward. The seconds are the server's own, without "
        "HTTP.",
        "",
        "| turn | forwards | prompt tokens | hit rate | read anew | seconds, median | at most |",
        "|---|---|---|---|---|---|---|",
        *(_line(name, reports) for name, reports in found.items()),
    ]
    output.write_text("\n".join(lines) + "\n")


def _histories(
    player: Player, kind: Kind, turns: int
) -> Iterator[tuple[list[tuple[str, int]], str | None]]:
    """Histories about one label after another, with other questions for each kind."""
    task = player.task
    draw = torch.Generator().manual_seed(KINDS.index(kind))
    truth = true_answers(task.answer_table(), draw)
    for turn in range(turns):
        order = torch.randperm(len(task.queries), generator=draw)[: kind.answers].tolist()
        history = [(task.questions[at], int(truth[turn, at])) for at in order]
        yield history, kind.reply and kind.reply.format("x" * (turn + 1))


def _line(name: str, reports: list[dict[str, Any]]) -> str:
    forwards = sum(one["forwards"] for one in reports)
    prompt = sum(one["prompt_tokens"] for one in reports)
    cached = sum(one["cached_tokens"] for one in reports)
    seconds = [one["seconds"] for one in reports]
    shares = (
        f"{prompt / forwards:.0f} | {cached / prompt:.2f} | {(prompt - cached) / forwards:.0f}"
        if prompt
        else " | | "
    )
    return (
        f"| {name} | {forwards / len(reports):.0f} | {shares} | {median(seconds):.3f} "
        f"| {max(seconds):.3f} |"
    )


if __name__ == "__main__":
    typer.run(main)
