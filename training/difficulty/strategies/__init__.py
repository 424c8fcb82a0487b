"""Strategies: how questions of each class are answered; shipped sets, or the user's TOML file."""

import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from probes.difficulty.strategies import Strategies
from training.common.errors import TrainingError
from training.common.files import read_toml

SHIPPED = ("think", "short", "plain")


def load_strategies(which: str) -> Strategies:
    """Read strategies from TOML: tables `easy`, `normal` and `hard`.

    Args:
        which: A name of `SHIPPED`, or the path of a file.

    Raises:
        TrainingError: The file cannot be read or says something wrong; names the field.
    """
    try:
        return Strategies.model_validate(_tables(which))
    except ValidationError as error:
        finding = error.errors()[0]
        field = ".".join(map(str, finding["loc"]))
        raise TrainingError(f"{which}: {field}: {finding['msg']}") from error


def _tables(which: str) -> dict[str, Any]:
    if which in SHIPPED:
        file = files("training.difficulty.strategies").joinpath(f"{which}.toml")
        return tomllib.loads(file.read_text("utf-8"))
    if not Path(which).is_file():
        raise TrainingError(f"--strategies `{which}`: not a file, nor one of {', '.join(SHIPPED)}")
    return read_toml(Path(which))
