"""Bandit games played through a server: `python -m benchmarks.steering.bandit`.

EAST is about behavior: an agent that is less certain of its next action should explore more. The
model plays a bandit of four arms, one of which pays more; every pull is one token that the server
samples among the arms. The same game, rewards included, is played plainly, with the vector, with
the negated vector, with shuffled vectors, and at the temperature that gives the plain model the
entropy of the steered one. Pulls are kept in the run folder: the same command resumes.
"""

import asyncio
import json
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import numpy as np
import typer
from matplotlib.figure import Figure
from rich.console import Console
from scipy.optimize import brentq

from benchmarks import machine
from benchmarks.steering.games import ARMS, AT_ONCE, GAP, SPREAD, Game, Player, PullLog, play_all
from benchmarks.steering.transfer import load_vector
from clients.local_server import local_server, serve_command
from probes.artifact import Artifact
from probes.steering import action_entropy, shuffled
from training.common.metrics import Floats, interval, resample_weights
from training.common.progress import progress_bar
from training.common.report import markdown_table, write_page
from training.steering.fit import Vector
from training.steering.model import LoadedModel, load_model
from training.steering.reader import PLAIN, Condition, EpisodeReader, tokenize_episode
from training.steering.wordings import (
    BANDITS,
    Wording,
    WordingSet,
    bandit_episodes,
    built_in_wordings,
)

_HELD_OUT: WordingSet = "held-out"
PLAIN_PLAYER, STEERED, HEATED = "plain", "vector", "temperature"
"""Players that others are compared with."""


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


class Played:
    """What all players did, and the bootstrap over games that all figures share."""

    def __init__(
        self, log: PullLog, players: Sequence[Player], games: Sequence[Game], rounds: int
    ) -> None:
        self.players = players
        self.num_games, self.rounds = len(games), rounds
        tables = {player.name: log.table(player, games, rounds) for player in players}
        best = np.array([game.best for game in games], dtype=np.float64)[:, None]
        self.arms = {name: arms for name, (arms, _) in tables.items()}
        self.best = {name: arms == best for name, arms in self.arms.items()}
        """Whether the best arm was pulled, shape (games, rounds)."""
        self.regret = {name: GAP * np.cumsum(~row, axis=1) for name, row in self.best.items()}
        """Regret so far, shape (games, rounds)."""
        self.entropy = {name: entropies for name, (_, entropies) in tables.items()}
        self.weights = resample_weights(len(games), seed=0)

    def cell(self, values: Floats, sign: str = "", digits: int = 3) -> str:
        """Mean over games and its interval."""
        one = interval(float(values.mean()), self.weights @ values)
        shown = [f"{value:{sign}.{digits}f}" for value in one]
        return f"{shown[0]} ({shown[1]} to {shown[2]})"


def regret_curves(played: Played) -> Figure:
    """Mean regret so far by round, with 95 % bootstraps over games; shuffled vectors are gray."""
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    rounds = np.arange(1, played.rounds + 1)
    for name, regret in played.regret.items():
        if name.startswith("shuffled"):
            axes.plot(rounds, regret.mean(0), color="0.75", label=name)
            continue
        (line,) = axes.plot(rounds, regret.mean(0), label=name)
        low, high = np.quantile(played.weights @ regret, (0.025, 0.975), axis=0)
        axes.fill_between(rounds, low, high, alpha=0.15, color=line.get_color())
    axes.plot(rounds, (1 - 1 / ARMS) * GAP * rounds, "k:", label="random pulls")
    axes.set(xlabel="round", ylabel="regret so far")
    axes.legend(fontsize=8)
    return figure


def table(played: Played) -> str:
    """What every player did, with intervals over games."""
    rows = [
        (
            player.name,
            f"{player.temperature:.2f}",
            played.cell(played.entropy[player.name].mean(1)),
            f"{_distinct(played.arms[player.name]).mean():.2f}",
            played.cell(played.best[player.name].mean(1)),
            played.cell(played.best[player.name][:, played.rounds // 2 :].mean(1)),
            played.cell(played.regret[player.name][:, -1], digits=0),
        )
        for player in played.players
    ]
    chance = f"{1 / ARMS:.3f}"
    regret = f"{(1 - 1 / ARMS) * GAP * played.rounds:.0f}"
    rows.append(("random pulls", "", f"{np.log(ARMS):.3f}", "4.00", chance, chance, regret))
    head = ("player", "T", "entropy of a pull, nats", "arms pulled", "pulls of the best arm",
            "in the second half", "regret")  # fmt: skip
    return markdown_table(head, rows)


def comparisons(played: Played) -> str:
    """Paired differences: the vector against every other player, and all against the plain one."""
    names = [player.name for player in played.players]
    pairs = [(STEERED, other) for other in names if other != STEERED]
    pairs += [(name, PLAIN_PLAYER) for name in names if name not in (STEERED, PLAIN_PLAYER)]
    rows = []
    for one, other in pairs:
        regret = played.regret[one][:, -1] - played.regret[other][:, -1]
        best = played.best[one].mean(1) - played.best[other].mean(1)
        entropy = played.entropy[one].mean(1) - played.entropy[other].mean(1)
        distinct = _distinct(played.arms[one]) - _distinct(played.arms[other])
        rows.append(
            (
                f"{one} minus {other}",
                played.cell(entropy, "+"),
                played.cell(distinct, "+", 2),
                played.cell(best, "+"),
                played.cell(regret, "+", 0),
            )
        )
    head = ("", "entropy of a pull", "arms pulled", "pulls of the best arm", "regret")
    return markdown_table(head, rows)


def _distinct(arms: Floats) -> Floats:
    """Number of arms that a game pulled, shape (games,)."""
    return np.array([len(set(row)) for row in arms], dtype=np.float64)


def _matched(
    path: Path, loaded: LoadedModel, found: Vector, strength: float, told: Wording
) -> tuple[float, float]:
    """`matched_temperature`, kept beside the pulls."""
    if not path.is_file():
        path.write_text(json.dumps(matched_temperature(loaded, found, strength, told)))
    temperature, entropy = json.loads(path.read_text())
    return float(temperature), float(entropy)


def _settings_digest(vector: Artifact, told: Wording, strength: float) -> str:
    """Names the files of the games of these settings."""
    tensors = {name: sha256(one.float().numpy().tobytes()) for name, one in vector.tensors.items()}
    digests = sorted((name, digest.hexdigest()) for name, digest in tensors.items())
    settings = json.dumps([vector.id, digests, repr(told), strength])
    return sha256(settings.encode()).hexdigest()[:8]


def main(
    vector: Annotated[Path, typer.Option(help="Folder of the steering vector.")] = Path(
        "artifacts/smollm2-135m/explore"
    ),
    strength: Annotated[float, typer.Option(help="In multiples of the stream's norm.")] = 0.1,
    wording: Annotated[
        str, typer.Option(help="A bandit, or `held-out`: one of that set.")
    ] = "fruits",
    games: Annotated[int, typer.Option(help="Games of every player, a multiple of 4.")] = 24,
    rounds: Annotated[int, typer.Option(help="Pulls of a game.")] = 50,
    copies: Annotated[int, typer.Option(help="Shuffled vectors.")] = 2,
    runs: Annotated[Path, typer.Option(help="Folder of the pulls so far.")] = Path("runs"),
    output: Annotated[Path, typer.Option(help="Folder of the result.")] = Path(
        "benchmarks/results"
    ),
) -> None:
    """Play and write steering-bandit-WORDING.md and .png."""
    facts = machine.describe("benchmarks.steering.bandit")
    artifact, found = load_vector(vector)
    told = _held_out() if wording == _HELD_OUT else BANDITS[wording]
    loaded, digest = load_model(None), _settings_digest(artifact, told, strength)
    for folder in (runs, output):
        folder.mkdir(parents=True, exist_ok=True)
    file = runs / f"bandit-{digest}-temperature.json"
    matched, entropy = _matched(file, loaded, found, strength, told)
    tokens = first_tokens(loaded.tokenizer, told)
    del loaded
    dealt = [Game(told, number) for number in range(games)]
    with TemporaryDirectory() as root:
        shuffled_names = save_shuffled(artifact, copies, Path(root, "artifacts"))
        players = [
            Player(PLAIN_PLAYER),
            Player(STEERED, 1.0, artifact.id, strength),
            Player("negated", 1.0, artifact.id, -strength),
            Player(HEATED, matched),
            *(
                Player(f"shuffled {seed + 1}", 1.0, name, strength)
                for seed, name in enumerate(shuffled_names)
            ),
        ]
        log = PullLog(runs / f"bandit-{digest}.jsonl")
        _play_rest(Path(root), players, dealt, rounds, tokens, log)
    played = Played(log, players, dealt, rounds)
    name = f"steering-bandit-{wording}"
    lines = [f"# A bandit played with a steering vector: {wording}", "", *machine.markdown(facts)]
    lines += ["", f"""\
Vector `{artifact.id}` (layer {found.layer}, strength {strength:g}; learned from
`{artifact.manifest.settings["task"]}`). {games} games of {rounds} pulls among {ARMS} arms, the same
for every player: rewards are Gaussian, with mean 100 for one arm, 90 for the others and deviation
{SPREAD:g}; each arm is the best one in a quarter of the games. The answer begins
"{told.answer_prefix}", and the server samples one token among those of the arms
({", ".join(told.arms[:ARMS])}; layout `{told.layout}`). "temperature" is the plain model at the
temperature that gives it the steered model's entropy over the arms on random histories,
{entropy:.3f} nats. The entropy of a pull is that of the distribution that it was drawn from, as the
server reports it. Intervals are 95 % bootstraps over games.
""", table(played)]  # fmt: skip
    lines += ["", "Paired by game:", "", comparisons(played)]
    lines += ["", f"![Regret by round]({name}.png)"]
    write_page(output, name, "\n".join(lines) + "\n", regret_curves(played))
    print("\n".join(lines))


def _play_rest(
    root: Path,
    players: Sequence[Player],
    games: Sequence[Game],
    rounds: int,
    tokens: list[int],
    log: PullLog,
) -> None:
    """Play what the log does not have; starts a server only if something is left."""
    total = len(players) * len(games) * rounds
    done = sum(len(log.pulls(player, game)[:rounds]) for player in players for game in games)
    if done == total:
        return
    console = Console()
    flags = ["--artifacts", f"{root}/artifacts", "--max-num-seqs", str(AT_ONCE)]
    with (
        local_server(serve_command(None, flags), root / "server.log", console) as url,
        progress_bar(console, "pulls", total, "pulls", done) as work,
    ):
        asyncio.run(play_all(url, players, games, rounds, tokens, log, lambda: work.advance(1)))


if __name__ == "__main__":
    typer.run(main)
