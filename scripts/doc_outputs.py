"""Compare what a block of the documentation printed with the output that its page shows.

As in doctest, runs of whitespace are equal, and `...` stands for any text, also of several lines.
JSON is compared by value. `scripts.doc_blocks` says which outputs are compared.
"""

import doctest
import json
import re

from scripts.doc_blocks import Output

_FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_HASH = re.compile(r"\b[0-9a-f]{8}\b")
"""In the name of a run."""
_NUMBER = re.compile(r"[-+]?\d[\d.,:]*")
"""As in 1.5, 20,000 and 0:05:25."""
_LINE = re.compile(r"[━─╸╺]+")
"""Lines of tables and progress bars, as long as the numbers make them."""


def difference(output: Output, printed: str) -> str | None:
    """What the page shows and what was printed, or None if that is the same.

    Args:
        output: The output that the page shows.
        printed: What the block printed.
    """
    if output.rule.startswith("skip, "):
        return None
    try:
        expected, got = _readable(output, output.text), _readable(output, printed)
    except json.JSONDecodeError:
        return f"the page shows JSON:\n{output.text}printed:\n{printed}"
    checker = doctest.OutputChecker()
    if checker.check_output(_comparable(output, expected), _comparable(output, got), _FLAGS):
        return None
    return checker.output_difference(doctest.Example("", expected), got, _FLAGS)


def _readable(output: Output, text: str) -> str:
    if output.is_json:
        text = json.dumps(json.loads(text), indent=1, sort_keys=True)
    return f"{text.strip()}\n"


def _comparable(output: Output, text: str) -> str:
    if not output.rule.startswith("numbers, "):
        return text
    return _LINE.sub("━", _NUMBER.sub("0", _HASH.sub("0", text)))
