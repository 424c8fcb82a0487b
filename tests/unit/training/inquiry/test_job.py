import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pytest
import torch

from probes.artifact import Artifact
from probes.inquiry.artifact import Inquiry
from probes.inquiry.task import Task, load_task
from tests.unit.training.fake import Fake, Json
from training.cli.probe import train_probe
from training.inquiry.statement_logprobs import continuation_logprobs


class Model:
    """Serves a model of words that holds true statements a little more likely than false ones."""

    def __init__(self, task: Task, fake: Fake) -> None:
        self.words: list[str] = []
        self.statements = 0
        self.labels_asked = 0
        self.truth = task.answer_table().nan_to_num(0.5)
        self.labels = [label.phrase for label in task.labels]
        self.properties = [query.property for query in task.queries]
        self.noise = torch.randn(
            self.truth.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64
        )
        fake.routes = {
            "/tokenize": self.tokenize,
            "/v1/completions": self.complete,
            "/generative_scoring": self.score,
        }

    def tokenize(self, body: Json) -> Json:
        words = body["prompt"].split()
        self.words += [word for word in dict.fromkeys(words) if word not in self.words]
        return {"tokens": [self.words.index(word) for word in words]}

    def likelihood(self, text: str) -> float:
        row = next(at for at, one in enumerate(self.labels) if text.startswith(one + " "))
        column = self.properties.index(text.removeprefix(self.labels[row] + " "))
        return float(self.truth[row, column] + self.noise[row, column] / 2)

    def complete(self, body: Json) -> Json:
        assert body["max_tokens"] == 1
        choices = []
        for index, tokens in enumerate(body["prompt"]):
            text = " ".join(self.words[token] for token in tokens)
            rows: list[Any] = [{str(token): {"logprob": -1.0}} for token in tokens]
            if text.startswith("One "):  # a label after a history
                self.labels_asked += 1
            else:
                self.statements += 1
                rows[-1] = {str(tokens[-1]): {"logprob": self.likelihood(text) - 5}}
            rows[0] = None
            choices.append(
                {"index": index, "text": "x", "finish_reason": "length", "prompt_logprobs": rows}
            )
        return {
            "id": "x",
            "object": "text_completion",
            "created": 0,
            "model": "tiny",
            "choices": choices,
        }

    def score(self, body: Json) -> Json:
        """Half of the probability for the true label, which is named first."""
        self.labels_asked += 1
        assert body["query"].endswith("is:")
        assert len(set(body["label_token_ids"])) == len(self.labels)
        return {"data": [{"index": 0, "score": 0.5}]}


@pytest.fixture
def model(fake: Fake) -> Model:
    return Model(load_task("triage"), fake)


def train(fake: Fake, folder: Path, *more: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as end:
        train_probe(
            [
                *("inquiry", "--task", "triage", "--server", fake.url, "--samples", "200"),
                *("--games", "12", "--lengths", "6", "--runs", str(folder / "runs")),
                *("--out", str(folder / "artifacts"), *map(str, more)),
            ]
        )
    assert end.value.code == code


def stored(folder: Path) -> Artifact:
    return Artifact.load(folder / "artifacts" / "tiny" / "triage")


def test_a_run_leaves_an_artifact_that_can_be_played(
    fake: Fake, model: Model, tmp_path: Path
) -> None:
    train(fake, tmp_path)
    artifact = stored(tmp_path)
    spec = artifact.manifest.inquiry
    assert spec is not None
    inquiry = Inquiry.from_tensors(spec, artifact.tensors)
    assert inquiry.task == load_task("triage")
    assert inquiry.logprobs.shape == (30, 2, 12)
    assert len(inquiry.calibration("likelihood", 0.8).thresholds) == 7
    assert len(spec.fitted) == 6
    assert artifact.manifest.metrics["auc"] > 0.8
    for row, label in enumerate(inquiry.task.labels):  # only the property's tokens were counted
        for column, query in enumerate(inquiry.task.queries):
            length = len(query.property.split())
            expected = model.likelihood(f"{label.phrase} {query.property}") - 5 - (length - 1)
            assert float(artifact.tensors["table"][row, column]) == pytest.approx(expected)


def test_what_was_read_is_not_read_again(fake: Fake, model: Model, tmp_path: Path) -> None:
    train(fake, tmp_path, "--direct", 20, "--direct-lengths", 2)
    assert (model.statements, model.labels_asked) == (360, 60)
    train(fake, tmp_path, "--direct", 20, "--direct-lengths", 2)
    assert (model.statements, model.labels_asked) == (360, 60)
    train(fake, tmp_path, "--fresh")
    assert model.statements == 720


def test_direct_is_calibrated_beside_it_and_ranked(
    fake: Fake, model: Model, tmp_path: Path
) -> None:
    train(fake, tmp_path, "--direct", 20, "--direct-lengths", 2)
    artifact = stored(tmp_path)
    assert artifact.manifest.inquiry is not None
    assert artifact.manifest.inquiry.predictors == ("direct", "likelihood")
    assert torch.equal(artifact.tensors["scores.direct"], torch.full((3, 20), -0.5))


def test_labels_that_begin_alike_are_scored_by_all_their_tokens(fake: Fake, tmp_path: Path) -> None:
    animals = ("cat", "dog", "fish", "bird", "bee", "ant", "cow", "hen", "pig", "old fox")
    names = [f"red {animal}" for animal in animals]
    yes = [["red cat", "red dog"], ["red cat", "red fish"]]
    task = {
        "name": "reds",
        "subject": "thing",
        "labels": [{"name": name, "phrase": f"A {name}"} for name in names],
        "queries": [
            {"question": f"Is it {at}?", "property": f"is {at}.", "yes": one}
            for at, one in enumerate(yes)
        ],
    }
    (tmp_path / "reds.json").write_text(json.dumps(task))
    model = Model(load_task(str(tmp_path / "reds.json")), fake)
    train(fake, tmp_path, "--task", tmp_path / "reds.json", "--direct", 20, "--direct-lengths", 1)
    scores = Artifact.load(tmp_path / "artifacts" / "tiny" / "reds").tensors["scores.direct"]
    assert model.labels_asked == 2 * 20 * 10
    short, long = 1 / (9 + math.exp(-1)), 1 / (1 + 9 * math.e)  # one nat for each token
    assert {round(-one, 5) for one in scores.flatten().tolist()} <= {
        round(short, 5),
        round(long, 5),
    }


def test_the_report_has_coverage_and_curves(fake: Fake, model: Model, tmp_path: Path) -> None:
    train(fake, tmp_path)
    (page,) = tmp_path.glob("runs/inquiry-tiny-*/inquiry.md")
    text = page.read_text()
    assert len(re.findall(r"^\| \d", text, re.MULTILINE)) == 2 * 7
    assert "random histories | C-IP games | IP games | random games" in text


def test_the_same_seed_makes_the_same_artifact(fake: Fake, model: Model, tmp_path: Path) -> None:
    first = None
    for _ in range(2):
        train(fake, tmp_path)
        tensors = stored(tmp_path).tensors
        assert first is None or all(torch.equal(first[key], tensors[key]) for key in tensors)
        first = tensors


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--task", "none.json"), "--task none.json: is neither a file"),
        (("--level", "0.999"), "--level 0.999: 200 samples promise"),
        (("--level", "0"), "--level 0.0: Input should be greater than 0"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_read(
    fake: Fake,
    model: Model,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    words: tuple[str, ...],
    message: str,
) -> None:
    train(fake, tmp_path, *words, code=2)
    assert f"train-probe inquiry: {message}" in capsys.readouterr().err
    assert model.statements == 0


def test_a_task_without_known_answers_is_refused(
    fake: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = [{"name": name, "phrase": name} for name in "abcdefghij"]
    task = {
        "name": "t",
        "subject": "s",
        "labels": labels,
        "queries": [{"question": "q?", "property": "p"}],
    }
    (tmp_path / "t.json").write_text(json.dumps(task))
    train(fake, tmp_path, "--task", tmp_path / "t.json", code=2)
    assert "no question has a known answer" in capsys.readouterr().err


async def test_a_server_that_dies_is_its_error_and_no_group_of_errors() -> None:
    request: Any = httpx.Request("POST", "http://gone")

    async def die(**_: Any) -> None:
        raise openai.APIConnectionError(request=request)

    client: Any = SimpleNamespace(completions=SimpleNamespace(create=die))
    with pytest.raises(openai.APIConnectionError):
        await continuation_logprobs([client], "tiny", [([1], [2])] * 100)


@pytest.mark.parametrize("number", [2, 4, 9])
def test_too_few_labels_to_calibrate_are_refused(
    fake: Fake, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    labels = [{"name": f"l{n}", "phrase": f"l{n}"} for n in range(number)]
    query = {"question": "q?", "property": "p", "yes": ["l0"]}
    task = {"name": "t", "subject": "s", "labels": labels, "queries": [query]}
    (tmp_path / "t.json").write_text(json.dumps(task))
    train(fake, tmp_path, "--task", tmp_path / "t.json", code=2)
    assert f"{number} labels are too few" in capsys.readouterr().err
    assert model.statements == 0


@pytest.mark.parametrize("value", [None, "x", math.nan])
def test_a_log_probability_that_is_missing_is_told_in_one_sentence(
    fake: Fake, model: Model, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: object
) -> None:
    def complete(body: Json) -> Json:
        answer = model.complete(body)
        for choice in answer["choices"]:
            token = next(iter(choice["prompt_logprobs"][-1]))
            choice["prompt_logprobs"][-1] = value and {token: {"logprob": value}}
        return answer

    fake.routes["/v1/completions"] = complete
    train(fake, tmp_path, code=2)
    error = capsys.readouterr().err
    assert "sent no log-probability" in error
    assert error.count("\n") == 1
