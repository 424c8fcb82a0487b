"""Prompts for rollouts: from the user's JSONL file, or the shipped ones."""

from importlib.resources import files
from pathlib import Path
from typing import Any

from training.common.errors import TrainingError
from training.common.files import parse_json_lines, read_text


def load_prompts(path: Path | None) -> list[str]:
    """Read prompts from JSONL: `prompt` (a text or a chat of one message) or `question`.

    Other fields are ignored.

    Args:
        path: None takes the shipped ones: chat, stories, code, arithmetic, lists, explanations
            and short edits, written for this project.

    Raises:
        TrainingError: The file cannot be read or a line is no prompt; names the line.
    """
    if path is None:
        text = files("training.common").joinpath("prompts.jsonl").read_text("utf-8")
        name = "prompts"
    else:
        text, name = read_text(path), str(path)
    prompts = [_prompt(record, place) for place, record in parse_json_lines(text, name)]
    if not prompts:
        raise TrainingError(f"{name}: contains no prompts")
    return prompts


def _prompt(record: dict[str, Any], place: str) -> str:
    prompt = record.get("prompt", record.get("question"))
    if isinstance(prompt, list) and len(prompt) == 1 and isinstance(prompt[0], dict):
        prompt = prompt[0].get("content")
    if not isinstance(prompt, str) or not prompt.strip():
        raise TrainingError(
            f'{place}: expected an object such as {{"prompt": "Why?"}}; a chat may have one message'
        )
    return prompt
