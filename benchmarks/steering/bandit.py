"""Bandit games played through a server: `python -m benchmarks.steering.bandit`.

EAST is about behavior: an agent that is less certain of its next action should explore more. The
model plays a bandit of four arms, one of which pays more; every pull is one token that the server
samples among the arms. The same game, rewards included, is played plainly, with the vector, with
the negated vector, with shuffled vectors, and at the temperature that gives the plain model the
entropy of the steered one. Pulls are kept in the run folder: the same command resumes.
"""

import asyncio
import json
import random
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any, NamedTuple

import numpy as np
import torch
import typer
from matplotlib.figure import Figure
from openai import AsyncOpenAI
from rich.console import Console
from scipy.optimize import brentq

from benchmarks import machine
from benchmarks.steering.transfer import load_vector
from clients.local_server import local_server, serve_command
from probes.artifact import Artifact
from probes.steering import action_entropy, shuffled
from training.common.metrics import Floats, interval, resample_weights
from training.common.report import markdown_table, write_page
from training.steering.fit import Vector
from training.steering.model import LoadedModel, load_model
from training.steering.reader import PLAIN, Condition, EpisodeReader, tokenize_episode
from training.steering.wordings import (
    BANDITS,
    Pull,
    Wording,
    WordingSet,
    bandit_episodes,
    built_in_wordings,
)

ARMS, GAP, SPREAD = 4, 10.0, 10.0
"""Arms, by how much the best one's mean exceeds the others' 90, and the reward's deviation."""
_HELD_OUT: WordingSet = "held-out"
_AT_ONCE = 28


class Player(NamedTuple):
    """A way to play."""

    name: str
    temperature: float = 1.0
    vector: str = ""
    strength: float = 0.0

    @property
    def control(self) -> dict[str, Any]:
        """The request's fields of Entrostat."""
        if not self.vector:
            return {}
        steer = {"vector": self.vector, "strength_relative": self.strength}
        return {"entropy": {"steering": [steer]}}


class Game(NamedTuple):
    """One game of one player."""

    wording: Wording
    number: int
    best: int

    def reward(self, turn: int, arm: int) -> int:
        """Of an arm in a turn; the same for every player."""
        chance = random.Random(f"{self.number}:{turn}:{arm}")
        return round(chance.gauss(90.0 + GAP * (arm == self.best), SPREAD))


async def play(
    client: AsyncOpenAI,
    model: str,
    player: Player,
    game: Game,
    rounds: int,
    tokens: list[int],
    log: "PullLog",
) -> None:
    """Play the rounds of a game that the log does not have."""
    names = game.wording.arms[:ARMS]
    first = random.Random(game.number).randrange(ARMS)  # a pull that nobody was asked for
    history: list[Pull] = [(names[first], game.reward(-1, first))]
    for turn in range(rounds):
        pulled = log.pulls(player, game)
        if turn == len(pulled):
            step = game.wording.step(history, names, game.number)
            answer = await client.chat.completions.create(
                model=model,
                messages=[*step.messages, {"role": "assistant", "content": step.answer_prefix}],  # type: ignore[list-item]
                max_tokens=1,
                temperature=player.temperature,
                seed=game.number * 1000 + turn,
                extra_body={
                    "add_generation_prompt": False,
                    "continue_final_message": True,
                    "return_token_ids": True,
                    "allowed_token_ids": tokens,
                    **player.control,
                },
            )
            (token,) = answer.choices[0].token_ids  # type: ignore[attr-defined]
            log.add(player, game, tokens.index(token))
        history.append((names[pulled[turn]], game.reward(turn, pulled[turn])))


def _held_out() -> Wording:
    """The first held-out wording whose history is one message."""
    return next(one for one in built_in_wordings()[_HELD_OUT] if one.layout != "chat")


def first_tokens(tokenizer: Any, wording: Wording) -> list[int]:
    """The first token of every arm; they must differ."""
    found = [
        tokenizer(f" {arm}", add_special_tokens=False)["input_ids"][0]
        for arm in wording.arms[:ARMS]
    ]
    assert len(set(found)) == ARMS, f"arms of `{wording.answer_prefix}` begin with the same token"
    return [int(token) for token in found]


def matched_temperature(
    loaded: LoadedModel, vector: Vector, strength: float, wording: Wording
) -> tuple[float, float]:
    """Temperature at which the plain model is as uncertain among the arms as the steered one.

    Returns:
        The temperature, and the entropy in nats, mean over random histories of the wording.
    """
    runs = bandit_episodes(wording, ARMS, 6, 8, seed=77)
    reader = EpisodeReader(loaded.model, _with_first_tokens(loaded.tokenizer, runs, wording))
    plain = reader.logprobs(PLAIN)
    target = float(
        action_entropy(reader.logprobs(Condition(vector.offsets(strength)))).entropy.mean()
    )

    def above(temperature: float) -> float:
        return float(action_entropy(plain / temperature).entropy.mean()) - target

    low, high = 0.05, 50.0
    return (float(brentq(above, low, high, xtol=1e-3)) if above(high) > 0 else high), target


def _with_first_tokens(tokenizer: Any, runs: Any, wording: Wording) -> list[Any]:
    """The episodes with the arms' first tokens as actions, which is what the server samples."""
    actions = [[token] for token in first_tokens(tokenizer, wording)]
    texts = [tokenize_episode(tokenizer, run) for run in runs]
    return [text._replace(actions=[actions] * len(text.prompts)) for text in texts]


def save_shuffled(vector: Artifact, count: int, root: Path) -> list[str]:
    """Write the vector and shuffled copies below a folder; returns the copies' ids."""
    vector.save(root)
    names = [f"{vector.id}-shuffled-{seed}" for seed in range(count)]
    for seed, name in enumerate(names):
        tensors = {key: shuffled(tensor, seed) for key, tensor in vector.tensors.items()}
        Artifact(id=name, manifest=vector.manifest, tensors=tensors).save(root)
    return names


class PullLog:
    """Pulls of all games, one line of JSON for each, so that an interrupted run can be resumed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pulls: dict[tuple[str, int], list[int]] = {}
        text = path.read_text() if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # the last line was cut
            path.write_text(whole)
        for line in whole.splitlines():
            player, game, arm = json.loads(line)
            self._pulls.setdefault((player, game), []).append(arm)

    def pulls(self, player: Player, game: Game) -> list[int]:
        """Arms of a game so far, in the order of the rounds; grows with `add`."""
        return self._pulls.setdefault((player.name, game.number), [])

    def add(self, player: Player, game: Game, arm: int) -> None:
        """Keep a pull."""
        with self._path.open("a") as file:
            file.write(json.dumps([player.name, game.number, arm]) + "\n")
        self.pulls(player, game).append(arm)

    def arms(self, player: Player, games: list[Game], rounds: int) -> Floats:
        """Arms of a player, shape (games, rounds)."""
        rows = [self.pulls(player, game)[:rounds] for game in games]
        return np.array(rows, dtype=np.float64)


async def play_all(
    url: str,
    players: list[Player],
    games: list[Game],
    rounds: int,
    tokens: list[int],
    log: PullLog,
) -> None:
    """Play what the log does not have, game after game, `_AT_ONCE` at a time."""
    gate = asyncio.Semaphore(_AT_ONCE)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600) as client:
        model = (await client.models.list()).data[0].id

        async def one(player: Player, game: Game) -> None:
            async with gate:
                await play(client, model, player, game, rounds, tokens, log)

        await asyncio.gather(*(one(player, game) for game in games for player in players))


def regret_curves(arms: dict[str, Floats], games: list[Game]) -> Figure:
    """Mean regret so far by round, with 95 % bootstraps over games; shuffled vectors are gray."""
    best = np.array([game.best for game in games], dtype=np.float64)[:, None]
    weights = resample_weights(len(games), seed=0)
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    for name, row in arms.items():
        regret = GAP * np.cumsum(row != best, axis=1)
        rounds = np.arange(1, regret.shape[1] + 1)
        if name.startswith("shuffled"):
            axes.plot(rounds, regret.mean(0), color="0.75", label=name)
            continue
        (line,) = axes.plot(rounds, regret.mean(0), label=name)
        low, high = np.quantile(weights @ regret, (0.025, 0.975), axis=0)
        axes.fill_between(rounds, low, high, alpha=0.15, color=line.get_color())
    axes.plot(rounds, (1 - 1 / ARMS) * GAP * rounds, "k:", label="random pulls")
    axes.set(xlabel="round", ylabel="regret so far")
    axes.legend(fontsize=8)
    return figure


def table(arms: dict[str, Floats], games: list[Game], players: list[Player], seed: int = 0) -> str:
    """Pulls of the best arm, regret and entropy of the pulls by player, with intervals."""
    best = np.array([game.best for game in games], dtype=np.float64)[:, None]
    weights = resample_weights(len(games), seed)
    plain = (arms["plain"] == best).mean(1)
    rows = []
    for player in players:
        pulled = arms[player.name] == best
        share = pulled.mean(1)
        regret = GAP * (~pulled).sum(1).astype(np.float64)
        spread = np.array([_pull_entropy(row) for row in arms[player.name]])
        seen = np.array([len(set(row)) for row in arms[player.name]], dtype=np.float64)
        rows.append(
            (
                player.name,
                f"{player.temperature:.2f}",
                *(_cell(one, weights) for one in (share, regret, spread)),
                f"{seen.mean():.2f}",
                "" if player.name == "plain" else _cell(share - plain, weights, sign="+"),
            )
        )
    chance = (1 - 1 / ARMS) * GAP * next(iter(arms.values())).shape[1]
    rows.append(("random pulls", "", f"{1 / ARMS:.3f}", f"{chance:.3f}", "", "4.00", ""))
    head = ("player", "T", "pulls of the best arm", "regret", "entropy of the pulls, nats",
            "arms pulled", "best arm, minus plain")  # fmt: skip
    return markdown_table(head, rows)


def _pull_entropy(row: Floats) -> float:
    counts = torch.bincount(torch.tensor(row, dtype=torch.long), minlength=ARMS).double()
    return float(-torch.special.xlogy(counts / counts.sum(), counts / counts.sum()).sum())


def _cell(values: Floats, weights: Floats, sign: str = "") -> str:
    one = interval(float(values.mean()), weights @ values)
    return f"{one.value:{sign}.3f} ({one.low:{sign}.3f} to {one.high:{sign}.3f})"


def _log_path(runs: Path, vector: Artifact, told: Wording, strength: float, matched: float) -> Path:
    """Where the games of these settings are kept."""
    tensors = {name: sha256(one.float().numpy().tobytes()) for name, one in vector.tensors.items()}
    digests = sorted((name, digest.hexdigest()) for name, digest in tensors.items())
    settings = json.dumps([vector.id, digests, repr(told), strength, round(matched, 3)])
    runs.mkdir(parents=True, exist_ok=True)
    return runs / f"bandit-{sha256(settings.encode()).hexdigest()[:8]}.jsonl"


def main(
    vector: Annotated[Path, typer.Option(help="Folder of the steering vector.")] = Path(
        "artifacts/smollm2-135m/explore"
    ),
    strength: Annotated[float, typer.Option(help="In multiples of the stream's norm.")] = 0.1,
    wording: Annotated[
        str, typer.Option(help="A bandit, or `held-out`: one of that set.")
    ] = "fruits",
    games: Annotated[int, typer.Option(help="Games of every player.")] = 16,
    rounds: Annotated[int, typer.Option(help="Pulls of a game.")] = 50,
    copies: Annotated[int, typer.Option(help="Shuffled vectors.")] = 3,
    runs: Annotated[Path, typer.Option(help="Folder of the pulls so far.")] = Path("runs"),
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Play and write steering-bandit-WORDING.md and .png."""
    facts = machine.describe("benchmarks.steering.bandit")
    artifact, found = load_vector(vector)
    told = _held_out() if wording == _HELD_OUT else BANDITS[wording]
    loaded = load_model(None)
    matched, entropy = matched_temperature(loaded, found, strength, told)
    tokens = first_tokens(loaded.tokenizer, told)
    numbers = range(games)
    dealt = [
        Game(told, number, random.Random(f"best:{number}").randrange(ARMS)) for number in numbers
    ]
    with TemporaryDirectory() as root:
        shuffled_names = save_shuffled(artifact, copies, Path(root, "artifacts"))
        players = [
            Player("plain"),
            Player("vector", 1.0, artifact.id, strength),
            Player("negated", 1.0, artifact.id, -strength),
            Player("temperature", matched),
            *(
                Player(f"shuffled {seed + 1}", 1.0, name, strength)
                for seed, name in enumerate(shuffled_names)
            ),
        ]
        command = serve_command(None, ["--artifacts", f"{root}/artifacts", "--max-num-seqs", "32"])
        with local_server(command, Path(root, "server.log"), Console()) as url:
            log = PullLog(_log_path(runs, artifact, told, strength, matched))
            asyncio.run(play_all(url, players, dealt, rounds, tokens, log))
    arms = {player.name: log.arms(player, dealt, rounds) for player in players}
    name = f"steering-bandit-{wording}"
    lines = [f"# A bandit played with a steering vector: {wording}", "", *machine.markdown(facts)]
    lines += ["", f"""\
Vector `{artifact.id}` (layer {found.layer}, strength {strength:g}; learned from
`{artifact.manifest.settings["task"]}`). {games} games of {rounds} pulls among {ARMS} arms, the same
for every player: rewards are Gaussian, with mean 100 for one arm, 90 for the others and deviation
{SPREAD:g}. The answer begins "{told.answer_prefix}", and the server samples one token among those
of the arms ({", ".join(told.arms[:ARMS])}; layout `{told.layout}`). "temperature" is the plain
model at the temperature that gives it the steered model's entropy over the arms on random
histories, {entropy:.3f} nats. Intervals are 95 % bootstraps over games; the last column is paired.
""", table(arms, dealt, players)]  # fmt: skip
    lines += ["", f"![Regret by round]({name}.png)"]
    write_page(output, name, "\n".join(lines) + "\n", regret_curves(arms, dealt))
    print("\n".join(lines))


if __name__ == "__main__":
    typer.run(main)
