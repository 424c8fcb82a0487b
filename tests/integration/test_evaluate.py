"""`entrostat evaluate` on the shared server: refused for its budget, then answered and resumed."""

import json
import tomllib
from pathlib import Path

import pytest
from openai import OpenAI
from rich.console import Console

from clients.entropy import controls, report
from clients.parts import part_figures
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


def test_against_plain_every_profile_is_compared_on_all_questions(
    server: Server, tmp_path: Path
) -> None:
    folders = {"out": tmp_path / "pages", "runs": tmp_path / "runs", "server": (server.url,)}
    size = {**SIZE, "against": "plain", "profiles": ("steady", "dynamic"), "budget": 3000}
    (page,) = evaluate(EvaluateConfig.model_validate({**size, **folders}), Console())
    raw = json.loads(page.with_suffix(".json").read_text())
    assert [name for name, _ in raw["arms"]] == ["T = 0.7", "steady", "dynamic"]
    assert raw["result"]["num_scoring"] == 8
    for name in ("steady", "dynamic"):
        figures = [one["figure"] for one in raw["result"]["profiles"][name]]
        assert figures == ["accuracy", "pass@2", "tokens"]
    assert tomllib.loads((page.parent / "recommended.toml").read_text()).keys() <= {
        "recommended-flag"
    }


def test_with_trees_the_controls_of_a_law_are_computed_from_its_answers(
    server: Server, tmp_path: Path
) -> None:
    folders = {"out": tmp_path / "pages", "runs": tmp_path / "runs", "server": (server.url,)}
    size = {**SIZE, "min_p": 0.0, "trees": True, "budget": 3000}
    (page,) = evaluate(EvaluateConfig.model_validate({**size, **folders}), Console())
    raw = json.loads(page.with_suffix(".json").read_text())
    drawn, controls = ["T = 0.3", "T = 0.7", "steady"], ["steady: mean T", "steady: shuffled T"]
    assert list(raw["right"]) == drawn
    trees = raw["result"]["trees"]
    assert list(trees) == [*drawn, *controls]
    assert all((one["counted_minus_tree"] is None) == (n in controls) for n, one in trees.items())
    assert all(0 <= one["accuracy"]["value"] <= 1 for one in trees.values())
    assert all(0 <= one["unseen"] < 1 for one in trees.values())
    figures = [one["figure"] for one in raw["result"]["laws"]["steady"]]
    assert figures.count("accuracy by answer trees") >= 3
    assert "## Answer trees" in page.read_text()


def test_the_figures_of_the_parts_of_an_answer_add_up_to_those_of_the_whole(
    server: Server,
) -> None:
    client = OpenAI(base_url=f"{server.url}/v1", api_key="none")
    answer = client.chat.completions.create(
        model=client.models.list().data[0].id,
        messages=[{"role": "user", "content": "Count from 1 to 9."}],
        max_tokens=12,
        seed=3,
        logprobs=True,
        extra_body=controls(trace="tokens"),
    )
    (choice,) = answer.choices
    text, measured = choice.message.content or "", report(choice)
    assert measured is not None
    assert choice.logprobs is not None
    pieces = [token.token for token in choice.logprobs.content or ()]
    cut = len("".join(pieces[:5]))
    first, rest = part_figures(choice, 0, cut), part_figures(choice, cut, len(text))
    assert first is not None
    assert rest is not None
    assert first.num_tokens == 5
    assert choice.finish_reason == "length"  # so that every token is in the text
    assert first.num_tokens + rest.num_tokens == measured.num_tokens == 12
    assert measured.logprob_sum == pytest.approx(first.logprob_sum + rest.logprob_sum, abs=1e-3)
    for figure in ("entropy_mean", "varentropy_mean"):
        means = getattr(first, figure), getattr(rest, figure)
        assert None not in means
        total = 5 * means[0] + 7 * means[1]
        assert getattr(measured, figure) == pytest.approx(total / 12, abs=1e-5)


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
