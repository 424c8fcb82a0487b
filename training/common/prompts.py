"""The prompts that rollouts start from: a file of the user's, or the shipped ones."""

import json
from importlib.resources import files
from pathlib import Path

from training.common.errors import TrainingError
from training.common.files import read_text


def load_prompts(path: Path | None) -> list[str]:
    """Read prompts from JSONL: the field `prompt` of every line; other fields are left alone.

    Args:
        path: None takes the shipped ones: chat, stories, code, arithmetic, lists, explanations
            and short edits, written for this project.

    Raises:
        TrainingError: The file cannot be read or a line is no prompt; names the line.
    """
    if path is None:
        text, name = (
            files("training.common").joinpath("prompts.jsonl").read_text("utf-8"),
            "prompts",
        )
    else:
        text, name = read_text(path), str(path)
    # Not splitlines(): JSON strings may hold U+2028 and its kin, which are no ends of lines here.
    lines = enumerate(text.split("\n"), start=1)
    prompts = [_prompt(line, f"{name}: line {number}") for number, line in lines if line.strip()]
    if not prompts:
        raise TrainingError(f"{name}: there are no prompts in it")
    return prompts


def _prompt(line: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise TrainingError(f"{where}: not JSON: {error.msg}") from error
    prompt = record.get("prompt") if isinstance(record, dict) else None
    if not isinstance(prompt, str) or not prompt.strip():
        raise TrainingError(f'{where}: expected an object such as {{"prompt": "Why?"}}')
    return prompt
