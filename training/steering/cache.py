"""Readings of a run folder: each batch is saved before the next one starts."""

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
    """Reads episodes batch by batch; batches that are already on disk are loaded."""

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
        """Show a progress bar while a block runs."""
        return self._console.status(text)

    def map_batches(
        self,
        name: str,
        runs: Sequence[TokenizedEpisode],
        read: Callable[[EpisodeReader, int], dict[str, Tensor]],
    ) -> dict[str, Tensor]:
        """Result of `read` for every batch, concatenated along the first dimension.

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
    """Pad the actions of batches whose steps have fewer of them."""
    width = max(part.shape[-1] for part in parts)
    return [
        torch.nn.functional.pad(part, (0, width - part.shape[-1]), value=-torch.inf)
        if part.is_floating_point()
        else torch.nn.functional.pad(part, (0, width - part.shape[-1]))
        for part in parts
    ]


def run_folder(runs: Path, model: str, settings: dict[str, Any], *, fresh: bool) -> Path:
    """Run folder for these settings; the same settings give the same folder.

    Args:
        runs: Folder of runs.
        model: Name of the model.
        settings: Settings that the readings depend on; written to the folder.
        fresh: Delete existing readings.
    """
    text = json.dumps({"model": model, **settings}, indent=2)
    folder = runs / f"steering-{model}-{sha256(text.encode()).hexdigest()[:8]}"
    folder.mkdir(exist_ok=True)
    write_text(folder / "settings.json", text + "\n")
    if fresh:
        for file in (*folder.glob("*.safetensors"), folder / "generations.json"):
            file.unlink(missing_ok=True)
    return folder
