"""Games through a server: the predictor `direct`, and the model that asks by itself."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import openai
from torch import Tensor

from probes.inquiry.prompts import label_prompt
from probes.inquiry.task import Task
from probes.inquiry.words import Policy, Predictor
from training.inquiry.simulate import GameStep


class Player(NamedTuple):
    """Who plays what with which server."""

    client: openai.OpenAI
    model: str
    artifact: str
    """Id of the calibration."""
    task: Task
    questions: int
    """Most in a game."""
    max_candidates: int

    def turn(
        self, history: list[tuple[str, int]], *, reply: str | None = None, **control: Any
    ) -> dict[str, Any]:
        """The report of the turn that follows a history of questions and answers.

        Its `cached_tokens` are None unless the server runs with `--enable-prompt-tokens-details`.

        Args:
            history: Questions and answers, in the task's own words.
            reply: Instead of the last answer.
            control: Of `entropy.inquiry`.
        """
        messages: list[Any] = [{"role": "user", "content": "Go ahead."}]
        for question, answer in history:
            messages.append({"role": "assistant", "content": question})
            messages.append({"role": "user", "content": self.task.answers[answer]})
        if reply is not None:
            messages[-1]["content"] = reply
        wanted = {
            "task": self.artifact,
            "max_turns": self.questions,
            "max_candidates": self.max_candidates,
            **control,
        }
        completion = self.client.chat.completions.create(
            model=self.model, messages=messages, extra_body={"entropy": {"inquiry": wanted}}
        )
        report: dict[str, Any] = (completion.choices[0].model_extra or {})["entropy"]["inquiry"]
        details = completion.usage and completion.usage.prompt_tokens_details
        return {**report, "cached_tokens": details.cached_tokens if details else None}

    def ask(self, history: list[tuple[str, int]]) -> str:
        """What the model asks next, held to the task's own questions by a grammar.

        Direct prompting: it sees the game so far and writes the next line, nothing looks ahead.
        """
        asked = {question for question, _ in history}
        left = [question for question in self.task.questions if question not in asked]
        shown = label_prompt(self.task, history).rpartition("\n")[0]
        answer = self.client.completions.create(
            model=self.model,
            prompt=f"{shown}\n",
            max_tokens=64,
            temperature=0.0,
            extra_body={"structured_outputs": {"choice": left}},
        )
        return answer.choices[0].text


def served_game(
    player: Player, answers: Tensor, label: int, predictor: Predictor, policy: Policy
) -> list[GameStep]:
    """A game by the server's rule; `answers` of shape (Q,)."""
    return list(
        _steps(
            player,
            answers,
            label,
            lambda history: player.turn(history, predictor=predictor, policy=policy),
            lambda history, report: report["query"],
        )
    )


def asked_game(player: Player, answers: Tensor, label: int, predictor: Predictor) -> list[GameStep]:
    """A game in which the model asks by itself, and the predictor only says what follows."""

    def turn(history: list[tuple[str, int]]) -> dict[str, Any]:
        return player.turn(history, predictor=predictor, max_candidates=1)

    return list(_steps(player, answers, label, turn, lambda history, report: player.ask(history)))


def _steps(
    player: Player,
    answers: Tensor,
    label: int,
    turn: Callable[[list[tuple[str, int]]], dict[str, Any]],
    choose: Callable[[list[tuple[str, int]], dict[str, Any]], str | None],
) -> Iterator[GameStep]:
    name = player.task.names[label]
    places = {question: at for at, question in enumerate(player.task.questions)}
    history: list[tuple[str, int]] = []
    while True:
        report = turn(history)
        odds, members = report["probabilities"], report["prediction_set"]
        right = max(odds, key=odds.__getitem__) == name
        yield GameStep(right, name in members, len(members), len(history))
        question = choose(history, report) if len(history) < player.questions else None
        if question is None:
            return
        history.append((question, int(answers[places[question]])))
