"""Build the documentation site: `python -m scripts.site`. Fails on any warning or broken link.

`build/pages` mirrors the repository with symbolic links, so that the relative links of the Markdown
files work on the site as they do in the repository. The site is written to `build/site`.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_PAGES = _ROOT / "build" / "pages"
_PUBLISHED = (
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "LICENSE"),
    *("docs", "benchmarks/results", "training/common/prompts.jsonl"),
)


def main() -> int:
    """Link the pages and run mkdocs.

    Returns:
        Exit code of mkdocs.
    """
    shutil.rmtree(_PAGES, ignore_errors=True)
    for name in _PUBLISHED:
        link = _PAGES / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(_ROOT / name)
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    return subprocess.run(command, cwd=_ROOT, env=environment, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
