"""Load the model to steer, in float32 with transformers."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM
from transformers.utils import logging

from training.common.job import default_checkpoint, load_tokenizer, model_identity
from training.steering.reader import TokenizedEpisode, tokenize_episode
from training.steering.tasks import Episode
from training.steering.token_tree import attention_windows

_DEFAULT_NAME = "smollm2-135m"


class LoadedModel(NamedTuple):
    """A model and its name."""

    name: str
    folder: Path
    model: Any
    tokenizer: Any

    def texts(self, runs: Sequence[Episode]) -> list[TokenizedEpisode]:
        """Tokenize episodes."""
        return [tokenize_episode(self.tokenizer, run) for run in runs]


def load_model(folder: Path | None, *, is_default: bool = False) -> LoadedModel:
    """A model in float32, the embedded default without a folder.

    Args:
        folder: Of the checkpoint.
        is_default: Whether it is the embedded default's.

    Raises:
        TrainingError: The folder contains no model, or one whose layers are not supported.
    """
    checkpoint = default_checkpoint() if folder is None else folder
    model_identity(checkpoint)
    logging.disable_progress_bar()
    tokenizer = load_tokenizer(checkpoint)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    attention_windows(model.config)
    name = _DEFAULT_NAME if folder is None or is_default else folder.resolve().name
    return LoadedModel(name, checkpoint, model, tokenizer)
