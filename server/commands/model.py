"""`entrostat model`: where the embedded default model lies, for tools that read checkpoints."""

import sys


def model() -> None:
    """Print the folder of the embedded default model, made there first if it is missing.

    Any tool that reads Hugging Face checkpoints can use it; `train-policy` does.
    """
    from server.commands.default_model import ModelUnavailable, default_model
    from server.settings import settings

    try:
        print(default_model(settings().cache))
    except (ModelUnavailable, OSError) as error:
        print(f"entrostat model: {error}", file=sys.stderr)
        raise SystemExit(2) from None
