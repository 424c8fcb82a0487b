"""`entrostat evaluate` on the shared server: refused for its budget, then answered and resumed."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from server.profiles import parse_profiles
from tests.conftest import Server
from training.common.errors import TrainingError
from training.evaluation.config import EvaluateConfig
from training.evaluation.job import evaluate
from training.selective.rows import load_rows

SIZE = {
    "tasks": ("quiz",),
    "questions": 8,
    "samples": 2,
    "max_tokens": 4,
    "temperatures": ("0.3", "0.7"),
    "profiles": ("steady",),
    "concurrency": 16,
}


def test_an_evaluation_resumes_compares_and_writes_what_the_server_loads(
    server: Server, tmp_path: Path
) -> None:
    folders = {"out": tmp_path / "pages", "runs": tmp_path / "runs", "server": (server.url,)}
    too_much = {"max_tokens": 1000, "budget": 1000}  # no answer fits, so none is drawn
    with pytest.raises(TrainingError, match="--budget 1000 covers only"):
        evaluate(EvaluateConfig.model_validate({**SIZE, **folders, **too_much}), Console())
    config = EvaluateConfig.model_validate({**SIZE, **folders, "budget": 3000})
    (page,) = evaluate(config, Console())
    text = page.read_text()
    for arm in ("T = 0.3", "steady", "steady: mean T", "steady: shuffled T", "min_p = 0.1, T = 1"):
        assert f"| {arm} |" in text
    raw = json.loads(page.with_suffix(".json").read_text())
    assert raw["tokens"] <= 3000
    assert raw["result"]["num_choosing"] == raw["result"]["num_scoring"] == 4
    shuffled = dict(map(tuple, raw["arms"]))["steady: shuffled T"]["control"]["temperature"]
    assert shuffled["type"] == "shuffled"
    assert min(shuffled["temperatures"]) < 0.7
    parse_profiles((page.parent / "recommended.toml").read_text(), "recommended.toml")
    assert page.with_suffix(".png").stat().st_size > 10_000
    graded = load_rows(page.parent / "answers.jsonl")
    assert graded.temperature == config.temperature
    assert len({row.question for row in graded.rows}) == 8
    assert all({"entropy_mean", "num_tokens"} <= set(row.scores) for row in graded.rows)

    (again,) = evaluate(config, Console())  # nothing is drawn twice
    assert json.loads(again.with_suffix(".json").read_text())["tokens"] == raw["tokens"]
    assert json.loads(again.with_suffix(".json").read_text())["right"] == raw["right"]
