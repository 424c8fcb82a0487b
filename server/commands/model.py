"""`entrostat model`: prints the path of the embedded default model."""

import sys


def model() -> None:
    """Print the folder of the embedded default model, converting it on first use.

    Any tool that reads Hugging Face checkpoints can load it, for example `train-policy`.
    """
    from server.commands.default_model import ModelUnavailable, default_model
    from server.settings import settings

    try:
        print(default_model(settings().cache))
    except (ModelUnavailable, OSError) as error:
        print(f"entrostat model: {error}", file=sys.stderr)
        raise SystemExit(2) from None
