"""A page's printed output is compared with what its block prints."""

from pathlib import Path

import pytest

from scripts.doc_blocks import ROOT, Block, Output, blocks
from scripts.doc_outputs import difference
from scripts.run_docs import PageServer, run_block

TABLE = """\
run folder: runs/temperature-smollm2-135m-bb052234
sampling ━━━━━━━━━━━━━━ 20,000 of 20,000 tokens 0:05:25
┏━━━━━━━━┳━━━━━━━━━┓
│ pivot  │ -1.4852 │
└────────┴─────────┘
"""
OTHER_RUN = """\
run folder: runs/temperature-smollm2-135m-0f3e11aa
sampling ━━━━━━╸━━━━━━━━━━━━━ 2,011 of 2,000 tokens 0:00:41
┏━━━━━━━┳━━━━━━┓
│ pivot │ 1.39 │
└───────┴──────┘
"""
NUMBERS = "numbers, sampled"


@pytest.mark.parametrize(
    ("output", "printed"),
    [
        (Output("2 labels\n"), "2 labels\n"),
        (Output("a   b\nc\n"), "a b\n   c\n\n"),
        (Output("ready after ... s\n"), "ready after 99 s\n"),
        (Output("first\n...\nlast\n"), "first\nsecond\nthird\nlast\n"),
        (Output('{"b": 1,\n "a": [1, 2]}', is_json=True), '{"a":[1,2],"b":1}'),
        (Output('{"id": "chat-..."}', is_json=True), '{"id": "chat-81f"}'),
        (Output('{"entropy": 1.25}', NUMBERS, is_json=True), '{"entropy": 1.5}'),
        (Output(TABLE, NUMBERS), OTHER_RUN),
        (Output("2 labels\n", "skip, sampled text"), "a poem\n"),
    ],
)
def test_the_same_output_has_no_difference(output: Output, printed: str) -> None:
    assert difference(output, printed) is None


@pytest.mark.parametrize(
    ("output", "printed"),
    [
        (Output("2 labels\n"), "3 labels\n"),
        (Output("2 labels\n"), "2 labels\nwarning: one is unused\n"),
        (Output("2 labels\nsaved\n"), "2 labels\n"),
        (Output("2 labels\n"), ""),
        (Output("ready after ... s\n"), "ready after 2 minutes\n"),
        (Output("first\n...\nlast\n"), "first\nsecond\n"),
        (Output('{"a": [1, 2]}', is_json=True), '{"a": [2, 1]}'),
        (Output('{"a": 1}', is_json=True), '{"a": 1, "b": null}'),
        (Output('{"a": 1}', is_json=True), "a: 1\n"),
        (Output('{"entropy": 1.25}', NUMBERS, is_json=True), '{"entropy": null}'),
        (Output(TABLE, NUMBERS), OTHER_RUN.replace("pivot", "median")),
        (Output(TABLE), OTHER_RUN),
        (Output("2 labels\n", NUMBERS), "two labels\n"),
    ],
)
def test_another_output_is_a_difference(output: Output, printed: str) -> None:
    assert difference(output, printed) is not None


PAGE = """\
```sh
echo one
```

```text
one
```

<!-- run: with --quick -->
<!-- output: numbers, sampled -->
```console
$ train-probe temperature --out \\
    folder
pivot 1.5
$ ls
folder
```

```sh
curl localhost
```

<!-- output: skip, a poem -->
```json
{}
```

The next block shows a file.

```json
[]
```

```python
print("no output is shown")
```

```python
print("run")
```

```text
run
```
"""


def test_outputs_belong_to_the_block_directly_above(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(PAGE)
    found = blocks(tmp_path / "page.md")
    assert [block.output for block in found] == [
        Output("one\n"),
        Output("pivot 1.5\nfolder\n", "numbers, sampled"),
        Output("{}\n", "skip, a poem", is_json=True),
        None,
        Output("run\n"),
    ]
    assert found[1].text == "train-probe temperature --out \\\n    folder\nls\n"
    assert [block.is_python for block in found] == [False, False, False, True, True]


def problem(folder: Path, text: str, shown: str, *, is_python: bool = False) -> str | None:
    (folder / ".venv" / "bin").mkdir(parents=True)
    (folder / ".venv" / "bin" / "activate").touch()
    block = Block(ROOT / "README.md", 1, text, "", is_python, Output(shown))
    return run_block(block, folder, PageServer())


@pytest.mark.parametrize(("text", "is_python"), [("echo 3 labels\n", False), ("print(3)\n", True)])
def test_a_block_that_prints_something_else_fails_with_both_texts(
    tmp_path: Path, text: str, is_python: bool
) -> None:
    found = problem(tmp_path, text, "2\n", is_python=is_python)
    assert found is not None
    assert "Expected:\n    2\n" in found
    assert "Got:\n    3" in found


@pytest.mark.parametrize(
    ("text", "is_python"), [("echo 'A \"b\" $c'\n", False), ("print('A \"b\" $c')\n", True)]
)
def test_a_block_that_prints_what_its_page_shows_succeeds(
    tmp_path: Path, text: str, is_python: bool
) -> None:
    assert problem(tmp_path, text, 'A "b" $c\n', is_python=is_python) is None


def test_an_error_in_python_fails(tmp_path: Path) -> None:
    assert problem(tmp_path, "raise SystemExit(3)\n", "\n", is_python=True) is not None
