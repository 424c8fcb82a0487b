"""Bandit games that a server plays: who plays, what a pull is worth, and what was pulled so far."""

import asyncio
import json
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from openai import AsyncOpenAI

from training.common.metrics import Floats
from training.steering.wordings import Pull, Wording

ARMS, GAP, SPREAD = 4, 10.0, 10.0
"""Arms, by how much the best one's mean exceeds the others' 90, and the reward's deviation."""
AT_ONCE = 48
"""Games under way: enough that the engine always has a batch."""


class Player(NamedTuple):
    """A way to play."""

    name: str
    temperature: float = 1.0
    vector: str = ""
    strength: float = 0.0

    @property
    def control(self) -> dict[str, Any]:
        """The request's fields of Entrostat."""
        steer = {"vector": self.vector, "strength_relative": self.strength}
        return {"entropy": {"trace": "summary", **({"steering": [steer]} if self.vector else {})}}


class Game(NamedTuple):
    """One game, the same for every player."""

    wording: Wording
    number: int

    @property
    def best(self) -> int:
        """The arm that pays more: each arm equally often, so that a fixed preference is chance."""
        return self.number % ARMS

    @property
    def first(self) -> int:
        """The arm of the pull before the game, which nobody was asked for."""
        return random.Random(self.number).randrange(ARMS)

    def reward(self, turn: int, arm: int) -> int:
        """Of an arm in a turn."""
        chance = random.Random(f"{self.number}:{turn}:{arm}")
        return round(chance.gauss(90.0 + GAP * (arm == self.best), SPREAD))


class PullLog:
    """Pulls of all games, one line of JSON for each, so that an interrupted run can be resumed."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pulls: dict[tuple[str, int], list[tuple[int, float]]] = {}
        text = path.read_text() if path.is_file() else ""
        whole = text[: text.rfind("\n") + 1]
        if whole != text:  # the last line was cut
            path.write_text(whole)
        for line in whole.splitlines():
            player, game, arm, entropy = json.loads(line)
            self._pulls.setdefault((player, game), []).append((arm, entropy))

    def pulls(self, player: Player, game: Game) -> list[int]:
        """Arms of a game so far, in the order of the rounds."""
        return [arm for arm, _ in self._pulls.get((player.name, game.number), ())]

    def add(self, player: Player, game: Game, arm: int, entropy: float) -> None:
        """Keep a pull and the entropy of the distribution that it was drawn from."""
        with self._path.open("a") as file:
            file.write(json.dumps([player.name, game.number, arm, round(entropy, 5)]) + "\n")
        self._pulls.setdefault((player.name, game.number), []).append((arm, entropy))

    def table(self, player: Player, games: Sequence[Game], rounds: int) -> tuple[Floats, Floats]:
        """Arms and entropies of a player, each of the shape (games, rounds)."""
        rows = [self._pulls[player.name, game.number][:rounds] for game in games]
        arms, entropies = np.moveaxis(np.array(rows, dtype=np.float64), -1, 0)
        return arms, entropies


async def play(
    client: AsyncOpenAI,
    model: str,
    player: Player,
    game: Game,
    rounds: int,
    tokens: list[int],
    log: PullLog,
    pulled: Callable[[], object] = lambda: None,
) -> None:
    """Play the rounds of a game that the log does not have; `pulled` is called after each."""
    names = game.wording.arms[:ARMS]
    history: list[Pull] = [(names[game.first], game.reward(-1, game.first))]
    known = log.pulls(player, game)
    history += [(names[arm], game.reward(turn, arm)) for turn, arm in enumerate(known)]
    for turn in range(len(known), rounds):
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
        choice: Any = answer.choices[0]
        arm = tokens.index(*choice.token_ids)
        log.add(player, game, arm, choice.entropy["sampled_entropy_mean"])
        history.append((names[arm], game.reward(turn, arm)))
        pulled()


async def play_all(
    url: str,
    players: Sequence[Player],
    games: Sequence[Game],
    rounds: int,
    tokens: list[int],
    log: PullLog,
    pulled: Callable[[], object],
) -> None:
    """Play what the log does not have, game after game, `AT_ONCE` at a time."""
    gate = asyncio.Semaphore(AT_ONCE)
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="none", timeout=600) as client:
        model = (await client.models.list()).data[0].id

        async def one(player: Player, game: Game) -> None:
            async with gate:
                await play(client, model, player, game, rounds, tokens, log, pulled)

        await asyncio.gather(*(one(player, game) for game in games for player in players))
