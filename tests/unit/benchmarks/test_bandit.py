import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.steering.bandit import Played, comparisons, regret_curves
from benchmarks.steering.games import ARMS, Game, Player, PullLog, play
from training.steering.wordings import BANDITS

GAME = Game(BANDITS["fruits"], 2)
PLAYER = Player("plain")
TOKENS = [11, 22, 33, 44]
ROUNDS = 9


class Model:
    """Chooses an arm by the request; is interrupted after a number of pulls."""

    def __init__(self, patience: int = 1000) -> None:
        self.asked: list[str] = []
        self._patience = patience
        self.chat = SimpleNamespace(completions=self)

    async def create(self, **request: Any) -> Any:
        if len(self.asked) == self._patience:
            raise KeyboardInterrupt
        self.asked.append(str(request["messages"]))
        token = TOKENS[(len(self.asked[-1]) + request["seed"]) % ARMS]
        return SimpleNamespace(
            choices=[SimpleNamespace(token_ids=[token], entropy={"sampled_entropy_mean": 1.25})]
        )


def played(model: Any, path: Path) -> list[int]:
    log = PullLog(path)
    asyncio.run(play(model, "m", PLAYER, GAME, ROUNDS, TOKENS, log))
    return list(log.pulls(PLAYER, GAME))


def test_an_interrupted_game_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    whole, first, rest = Model(), Model(patience=4), Model()
    expected = played(whole, tmp_path / "whole.jsonl")
    with pytest.raises(KeyboardInterrupt):
        played(first, tmp_path / "pulls.jsonl")
    with (tmp_path / "pulls.jsonl").open("a") as file:
        file.write('["plain", 2')  # cut while it was written
    assert played(rest, tmp_path / "pulls.jsonl") == expected
    assert first.asked + rest.asked == whole.asked


def test_the_rewards_of_a_game_are_the_same_for_every_player_and_higher_for_the_best_arm() -> None:
    rewards = np.array([[GAME.reward(turn, arm) for arm in range(ARMS)] for turn in range(400)])
    again = Game(BANDITS["slots"], 2).reward(7, 1)
    assert again == rewards[7, 1]
    means = rewards.mean(0)
    assert means.argmax() == GAME.best
    assert means[GAME.best] - np.delete(means, GAME.best).mean() == pytest.approx(10.0, abs=2.0)


def test_the_regret_of_the_best_arm_is_nothing_and_that_of_another_grows_by_the_gap(
    tmp_path: Path,
) -> None:
    games = [Game(BANDITS["fruits"], number) for number in (2, 3)]
    players = [Player("plain"), Player("vector")]
    log = PullLog(tmp_path / "pulls.jsonl")
    for game in games:
        for _ in range(5):
            log.add(players[0], game, game.best, 0.5)
            log.add(players[1], game, 0, 0.75)
    played = Played(log, players, games, 5)
    (axes,) = regret_curves(played).axes
    curves = {line.get_label(): np.asarray(line.get_ydata()) for line in axes.lines}
    assert not curves["plain"].any()
    assert curves["vector"].tolist() == [10.0, 20.0, 30.0, 40.0, 50.0]
    (row,) = [line for line in comparisons(played).splitlines() if "vector minus plain" in line]
    assert "+0.250 (+0.250 to +0.250)" in row
    assert "-1.000 (-1.000 to -1.000)" in row
    assert "+50 (+50 to +50)" in row
