"""How questions of each class are answered: shipped sets of strategies, or a file of the user's."""

import tomllib
from importlib.resources import files
from pathlib import Path

from pydantic import ValidationError

from probes.difficulty.strategies import Strategies
from training.common.errors import TrainingError

SHIPPED = ("think", "short", "plain")


def load_strategies(which: str) -> Strategies:
    """Read strategies from TOML: tables `easy`, `normal` and `hard`.

    Args:
        which: A name of `SHIPPED`, or the path of a file.

    Raises:
        TrainingError: The file cannot be read or says something wrong; names the field.
    """
    try:
        if which in SHIPPED:
            text = (
                files("training.difficulty.strategies").joinpath(f"{which}.toml").read_text("utf-8")
            )
        else:
            text = Path(which).read_text("utf-8")
        return Strategies.model_validate(tomllib.loads(text))
    except (OSError, UnicodeDecodeError) as error:
        raise TrainingError(
            f"--strategies `{which}`: neither {' nor '.join(SHIPPED)}, and as a file it cannot be "
            f"read: {error}"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise TrainingError(f"{which}: not TOML: {error}") from error
    except ValidationError as error:
        finding = error.errors()[0]
        field = ".".join(map(str, finding["loc"]))
        raise TrainingError(f"{which}: {field}: {finding['msg']}") from error
