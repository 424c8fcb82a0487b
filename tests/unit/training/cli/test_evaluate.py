"""`entrostat evaluate`, without a server: options, errors, the dry run."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from training.cli.evaluate import evaluate


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> typer.Typer:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    made = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    made.command()(evaluate)
    return made


def test_help_shows_what_it_is_for_what_it_writes_and_examples(app: typer.Typer) -> None:
    shown = CliRunner().invoke(app, ["--help"], env={"COLUMNS": "100"}).output
    for word in ("recommended.toml", "--budget", "--url", "entrostat evaluate quiz --quick"):
        assert word in shown
    assert "--name" not in shown


def test_a_dry_run_takes_several_tasks_and_shows_the_settings(app: typer.Typer) -> None:
    done = CliRunner().invoke(app, ["quiz", "arithmetic", "--seed", "0", "--dry-run"])
    assert done.exit_code == 0, done.output
    settings = json.loads(done.output[: done.output.rindex("}") + 1])
    assert settings["tasks"] == ["quiz", "arithmetic"]
    assert "at most 400,000 tokens" in done.output


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "name a task"),
        (["nosuch"], "neither a JSONL file nor one of"),
        (["quiz", "--samples", "2", "--k", "4"], "--k 4 must not be larger than --samples 2"),
        (["quiz", "--temperatures", "hot,cold"], "write two or more numbers"),
        (["quiz", "--url", "localhost:8000"], "write an address such as"),
        (["few.jsonl", "--grader", "exact"], "has 1 questions, at least 8 are needed"),
    ],
)
def test_mistakes_are_one_sentence_and_exit_code_2(
    app: typer.Typer, words: list[str], message: str
) -> None:
    Path("few.jsonl").write_text('{"prompt": "Yes?", "answer": "yes"}\n')
    done = CliRunner().invoke(app, [*words, "--dry-run"])
    assert done.exit_code == 2
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
