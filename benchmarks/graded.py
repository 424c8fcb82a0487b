"""The command line of a comparison of graded answers: files of rows in, a page out."""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from benchmarks.machine import describe
from training.selective.rows import GradedAnswers, load_rows

Page = Callable[[str, Mapping[str, GradedAnswers], dict[str, object]], str]
"""Makes Markdown of the model, the answers of every task by its name, and facts of the machine."""


def write_comparison(module: str, description: str | None, page: Page) -> None:
    """Read the files that the command names, and write the page.

    Args:
        module: Name of the benchmark's module.
        description: Of the command.
        page: Compares the answers.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("rows", type=Path, nargs="+")
    parser.add_argument("--title", required=True, help="model")
    parser.add_argument("--out", type=Path, required=True, help="without suffix")
    options = parser.parse_args()
    facts = describe(module)
    found = page(options.title, {file.stem: load_rows(file) for file in options.rows}, facts)
    Path(f"{options.out}.md").write_text(found)  # a name such as model-0.5b has no suffix
