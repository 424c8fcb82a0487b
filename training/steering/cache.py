"""A run folder of readings: each batch is on disk before the next one begins."""

import json
from collections.abc import Callable, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.status import Status
from torch import Tensor

from training.common.files import read_tensors, write_tensors, write_text
from training.common.progress import progress_bar
from training.steering.reader import EpisodeReader, TokenizedEpisode, batches


class BatchCache:
    """Reads runs batch by batch, and what was read before a kill from disk."""

    def __init__(self, folder: Path, model: Any, console: Console) -> None:
        """Use a run folder.

        Args:
            folder: Must exist.
            model: A causal language model of transformers.
            console: For the progress bars.
        """
        self.folder = folder
        self.model = model
        self._console = console

    def show_status(self, text: str) -> Status:
        """Say what goes on while a block runs."""
        return self._console.status(text)

    def map_batches(
        self,
        name: str,
        runs: Sequence[TokenizedEpisode],
        read: Callable[[EpisodeReader, int], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """What `read` says of every batch, joined along the first dimension.

        Args:
            name: Of the readings, unique in the folder.
            runs: The runs, in order.
            read: Asks the reader of a batch, which has a number; tensors of shape (steps, ...).
        """
        found = list[dict[str, Tensor]]()
        with progress_bar(self._console, name, len(runs), "episodes") as work:
            for number, batch in enumerate(batches(runs)):
                file = self.folder / f"{name.replace(' ', '-')}-{number:03}.safetensors"
                if file.is_file():
                    found.append(read_tensors(file))
                else:
                    found.append(read(EpisodeReader(self.model, batch), number))
                    write_tensors(file, found[-1])
                work.advance(len(batch))
        return {key: torch.cat(_pad_actions([one[key] for one in found])) for key in found[0]}


def _pad_actions(parts: list[Tensor]) -> list[Tensor]:
    """Batches whose steps have fewer actions than others' get ones that are never taken."""
    width = max(part.shape[-1] for part in parts)
    return [
        torch.nn.functional.pad(part, (0, width - part.shape[-1]), value=-torch.inf)
        if part.is_floating_point()
        else torch.nn.functional.pad(part, (0, width - part.shape[-1]))
        for part in parts
    ]


def run_folder(runs: Path, model: str, settings: dict[str, Any], *, fresh: bool) -> Path:
    """The folder of everything read in this way: the same settings find it again.

    Args:
        runs: Folder of runs.
        model: Name of the model.
        settings: What decides what is read; written beside it.
        fresh: Throw away what is there.
    """
    text = json.dumps({"model": model, **settings}, indent=2)
    folder = runs / f"steering-{model}-{sha256(text.encode()).hexdigest()[:8]}"
    folder.mkdir(exist_ok=True)
    write_text(folder / "settings.json", text + "\n")
    if fresh:
        for file in (*folder.glob("*.safetensors"), folder / "generations.json"):
            file.unlink(missing_ok=True)
    return folder
