import json
import random
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from probes.artifact import Artifact
from probes.difficulty.probe import Head
from probes.difficulty.strategies import Difficulty, Outcomes, Thresholds
from tests.unit.training.fake import GREETING, Fake, Json, running
from tests.unit.training.tiny import HIDDEN, save_tiny
from training.cli.probe import train_probe
from training.difficulty import job
from training.difficulty.baselines import compare_with_baselines

# Kinds of questions that a random model's states tell apart, and how each is answered.
KINDS = {"easy": "aaaa", "normal": "zzzz", "hard": "????"}
PER_KIND = 30


def problem(kind: str, number: int) -> Json:
    return {"prompt": f"{KINDS[kind]} {number} {KINDS[kind]}", "answer": str(1000 + number)}


def kind_of(body: Json) -> str:
    first = body["messages"][0]["content"][:4]
    return next((kind for kind, mark in KINDS.items() if mark == first), "easy")


def choice(body: Json, *, right: bool, entropy: float, tokens: int) -> Json:
    words = body["messages"][0]["content"].split()
    text = str(1000 + int(words[1])) if right else "no idea"
    draw = random.Random(body["seed"])
    measured = [
        {"entropy": entropy + draw.uniform(0, 0.1), "temperature": 1.0} for _ in range(tokens)
    ]
    return {
        "index": 0,
        "finish_reason": "stop",
        "message": {"role": "assistant", "content": text},
        "entropy": {"num_tokens": tokens, "tokens": measured, "fallback": None},
    }


def by_entropy(body: Json) -> Json:
    """Solved with much entropy, solved with little, not solved."""
    if body["messages"][0]["content"] == GREETING:
        return choice({**body, "messages": [{"content": "x 1"}]}, right=True, entropy=1, tokens=1)
    kind = kind_of(body)
    entropy = {"easy": 2.0, "normal": 0.5, "hard": 1.0}[kind]
    return choice(body, right=kind != "hard", entropy=entropy, tokens=20)


def by_outcome(body: Json) -> Json:
    """Easy ones are solved by every strategy, normal ones by thinking alone, hard ones by none."""
    if body["messages"][0]["content"] == GREETING:
        return by_entropy(body)
    kind, thinks = kind_of(body), "step by step" in body["messages"][0]["content"]
    right = kind == "easy" or (kind == "normal" and thinks)
    return choice(body, right=right, entropy=1.0, tokens=40 if thinks else 4)


class Bench:
    """A folder with questions and a server to ask."""

    def __init__(self, folder: Path, fake: Fake) -> None:
        self.folder, self.fake = folder, fake
        lines = [json.dumps(problem(kind, n)) for kind in KINDS for n in range(PER_KIND)]
        (folder / "questions.jsonl").write_text("\n".join(lines))

    def run(self, *more: object) -> int:
        with pytest.raises(SystemExit) as end:
            train_probe(
                [
                    *("difficulty", "--server", self.fake.url, "--problems", "90"),
                    *("--task", str(self.folder / "questions.jsonl"), "--grader", "numeric"),
                    *("--samples", "2", "--head", "linear"),
                    *("--out", str(self.folder / "artifacts"), "--runs", str(self.folder / "runs")),
                    *map(str, more),
                ]
            )
        return int(end.value.code or 0)

    @property
    def artifact(self) -> Artifact:
        return Artifact.load(self.folder / "artifacts" / "tiny" / "difficulty")

    @property
    def spec(self) -> Any:
        return self.artifact.manifest.probe

    @property
    def report(self) -> str:
        (page,) = (self.folder / "runs").glob("*/difficulty-probe.md")
        assert page.with_suffix(".png").stat().st_size > 10_000
        return page.read_text()


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    save_tiny(folder)
    return folder


@pytest.fixture
def bench(weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    once = partial(compare_with_baselines, repeats=1)  # of three, which take most of a run
    monkeypatch.setattr(job, "compare_with_baselines", once)
    with running(weights) as fake:
        fake.reply = by_entropy
        yield Bench(tmp_path, fake)


def test_a_probe_learns_what_accuracy_and_entropy_say(bench: Bench) -> None:
    assert bench.run() == 0
    labels, metrics = bench.spec.labels, bench.artifact.manifest.metrics
    assert isinstance(labels, Thresholds)
    assert 0.5 < labels.beta < 2.1
    assert metrics["macro_f1"] > 0.9
    head = Head.from_tensors(bench.artifact.tensors, HIDDEN)
    assert head.weight.shape == (len(Difficulty), HIDDEN)
    assert "30 easy, 30 normal, 30 hard" in bench.report
    assert {body["temperature"] for body in bench.fake.asked} == {0.8}
    assert all("step by step" in body["messages"][0]["content"] for body in bench.fake.asked)
    reference = bench.artifact.manifest.reference
    assert reference is not None  # 90 questions, and the distance of a typical one is about 1
    assert sum(reference.counts) == 90
    assert reference.edges[0] < 1 < reference.edges[-1] < 2
    first, asked = bench.artifact.manifest, len(bench.fake.asked)
    assert bench.run() == 0  # again: nothing is asked, the same comes out
    assert len(bench.fake.asked) == asked
    assert bench.artifact.manifest.data_hash == first.data_hash
    assert bench.artifact.manifest.metrics == first.metrics


def test_a_probe_learns_which_strategy_is_cheapest(bench: Bench) -> None:
    bench.fake.reply = by_outcome
    bench.run("--labels", "entropy")  # its answers by normal are used again below
    assert len(bench.fake.asked) == 90 * 2
    assert bench.run("--labels", "outcome", "--tolerance", 0.1) == 0
    assert bench.spec.labels == Outcomes(tolerance=0.1, gamma=0.3)
    assert bench.artifact.manifest.metrics["macro_f1"] > 0.9
    assert "30 easy, 30 normal, 30 hard" in bench.report
    assert len(bench.fake.asked) == 3 * 90 * 2
    asked = {(body["temperature"], body["max_completion_tokens"]) for body in bench.fake.asked}
    assert asked == {(0.5, 38), (0.8, 96), (0.4, 48)}
    router = bench.spec.router
    assert router is not None
    assert len(set(router.dropped) & {"easy", "hard"}) == 1  # they answer alike
    assert bench.artifact.manifest.metrics["router_gain_low"] >= 0
    assert bench.artifact.manifest.metrics["router_saved"] > 0.3
    assert "## Router by worth" in bench.report


def test_a_class_without_questions_is_named(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    bench.fake.reply = lambda body: by_entropy(
        {**body, "messages": [{"content": "aaaa 1 aaaa"}]}
    )  # all solved the same way but the answers are those of another question
    assert bench.run("--alpha", 0.7, "--beta", 1, "--gamma", 0.3) == 2
    assert "questions are" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--alpha", 0.2, "--beta", 1, "--gamma", 0.5), "must not be larger than --alpha"),
        (("--alpha", 0.2), "belong together"),
        (("--labels", "outcome", "--beta", 1), "belong to --labels entropy"),
        (("--tolerance", 0.1), "belongs to --labels outcome"),
        (("--labels", "guess"), "--labels guess: Input should be 'entropy' or 'outcome'"),
        (("--name", "no/good/name"), "write MODEL/NAME"),
        (("--strategies", "nowhere.toml"), "not a file, nor one of"),
    ],
)
def test_contradictions_are_refused_before_anything_is_asked(
    bench: Bench, options: tuple[object, ...], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run(*options) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not bench.fake.asked


@pytest.mark.parametrize("number", [1, 49])
def test_too_few_questions_are_refused_before_anything_is_asked(
    bench: Bench, number: int, capsys: pytest.CaptureFixture[str]
) -> None:
    file = bench.folder / "questions.jsonl"
    file.write_text("\n".join(file.read_text().splitlines()[:number]))
    assert bench.run() == 2
    error = capsys.readouterr().err
    assert f"{number} questions are too few" in error
    assert "take 50 or more" in error
    assert error.count("\n") == 1
    assert not bench.fake.asked


def test_a_damaged_file_of_the_run_folder_is_named(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    assert bench.run() == 0
    (file,) = (bench.folder / "runs").glob("*/features.safetensors")
    file.write_bytes(file.read_bytes()[:100])
    assert bench.run() == 2
    assert "features.safetensors: is damaged: delete it" in capsys.readouterr().err
