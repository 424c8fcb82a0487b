"""Plain questions with options: a task without rewards or history, to test a vector on."""

import random
from collections import defaultdict

from training.datasets.loaders import load_problems
from training.steering.tasks import AgentStep, Episode


def question_episodes(number: int, options: int, seed: int) -> list[Episode]:
    """Questions of the quiz, each an episode of one step; the actions are its options.

    Args:
        number: Of questions, over all kinds of the quiz.
        options: Of each question: the right one and others of the same kind, mixed.
        seed: Of the choice.
    """
    chance = random.Random(f"questions:{seed}")
    problems = load_problems(("quiz",), 20 * number, seed)
    answers = defaultdict[str, set[str]](set)
    for problem in problems:
        answers[problem.task].add(problem.answer)
    episodes = list[Episode]()
    for problem in problems:
        right = problem.answer
        near = {right.casefold()}
        others = [one for one in sorted(answers[problem.task]) if one.casefold() not in near]
        if len(others) < options - 1 or len(episodes) == number:
            continue
        names = [right, *chance.sample(others, options - 1)]
        chance.shuffle(names)
        step = AgentStep(
            episode=len(episodes),
            step=0,
            prompt=f"{problem.prompt}\nOptions: {', '.join(names)}.",
            actions=tuple(names),
            answer_prefix="The answer is",
        )
        episodes.append([step])
    return episodes
