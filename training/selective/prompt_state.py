"""Hidden states at the end of prompts as a feature, and how far a prompt is from the questions."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from sklearn.decomposition import PCA

from probes.artifact import ModelIdentity, text_hash
from probes.selective.state import StateReader, StateSpec
from training.common.errors import TrainingError
from training.common.files import read_tensors, write_tensors
from training.common.metrics import Floats
from training.common.progress import progress_bar
from training.selective.answers import AnsweredTask
from training.selective.config import GradedAnswersConfig
from training.selective.rows import GradedAnswers, with_instruction

AXES = 32
"""Most principal axes; fewer if there are few questions."""
SHRINK = 0.3
"""Factor of the coordinates, so that the penalty of the logistic regression is stronger for them
than for scores: there are many, and each question has the same for all of its answers."""
QUANTILE = 0.99
"""Share of left-out questions whose distance is below the threshold."""


def read_states(
    task: AnsweredTask, answers: GradedAnswers, job: GradedAnswersConfig, console: Console
) -> Floats:
    """States of the questions in the order of `FitData.groups`.

    Raises:
        TrainingError: The rows do not say what was asked.
    """
    if not answers.named:
        raise TrainingError("--state: every row needs a `question`, whose state can be read")
    found = np.unique([row.question for row in answers.rows]).tolist()
    prompts = [with_instruction(question, job.instruction) for question in found]
    return question_states(task.checkpoint, task.identity, prompts, task.run, console)


def question_states(
    checkpoint: Path, identity: ModelIdentity, prompts: Sequence[str], run: Path, console: Console
) -> Floats:
    """States after the final norm at the last token of every prompt, shape (prompts, hidden).

    Args:
        checkpoint: Folder of the model.
        identity: Its fingerprint.
        prompts: One user message each.
        run: Run folder, in which they are kept.
        console: For progress.
    """
    from training.common.hidden_states import hidden_states  # imports transformers

    digest = text_hash("\n".join([identity.model_dump_json(), *prompts]))[:16]
    file = run / f"states-{digest}.safetensors"
    if not file.is_file():
        with progress_bar(console, "reading hidden states", len(prompts), "questions") as work:
            states, _ = hidden_states(checkpoint, prompts, work.advance)
        write_tensors(file, {"states": states})
    found: Floats = read_tensors(file)["states"].double().numpy()
    return found


def fit_reader(states: Floats) -> StateReader:
    """Probabilistic PCA of standardized states; the weights are zeros.

    Args:
        states: Of different questions, shape (questions, hidden).
    """
    mean, scale = states.mean(0), states.std(0)
    scale = np.where(scale > 0, scale, 1.0)
    standard = (states - mean) / scale
    axes = max(1, min(AXES, len(states) // 5, states.shape[1] - 1))
    found = PCA(axes, svd_solver="full").fit(standard)
    others = standard.var(0, ddof=1).sum() - found.explained_variance_.sum()
    rest = max(float(others) / max(states.shape[1] - axes, 1), 1e-6)
    variance = np.maximum(found.explained_variance_, rest)
    parts = (mean, scale, found.components_, variance, np.array(rest), np.zeros(axes))
    return StateReader(*(torch.tensor(part, dtype=torch.float64) for part in parts))


def with_weight(reader: StateReader, weight: Floats) -> StateReader:
    """The same with these weights of the coordinates."""
    return reader._replace(weight=torch.tensor(weight, dtype=torch.float64))


def coordinates(reader: StateReader, states: Floats) -> tuple[Floats, Floats]:
    """Coordinates of states, shape (questions, axes), and distances, shape (questions,)."""
    found = reader.coordinates(torch.from_numpy(states))
    return found[0].numpy(), found[1].numpy()


def state_spec(reader: StateReader, distances: Floats) -> StateSpec:
    """The spec of a reader.

    Args:
        reader: From `fit_reader`.
        distances: Of questions that had no part in a fit, shape (questions,).
    """
    return StateSpec(
        features=len(reader.mean),
        axes=len(reader.axes),
        threshold=float(np.quantile(distances, QUANTILE)),
        quantile=QUANTILE,
        questions=len(distances),
    )
