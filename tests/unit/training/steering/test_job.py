"""The whole job on a model of a few thousand weights, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path
from string import ascii_lowercase
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from probes.artifact import Artifact
from probes.steering import tensor_name
from tests.unit.training.tiny import save_tiny
from training.cli.steering import train_steering
from training.steering import cache
from training.steering.gguf import write_control_vector
from training.steering.reader import EpisodeReader

SMALL = (
    *(
        "--task",
        "fruits",
        "--histories",
        4,
        "--held-out",
        4,
        "--steps",
        3,
        "--arms",
        3,
        "--completions",
        3,
    ),
    *("--transfer", "slots:2", "--layers", 1, "--strengths", "0.2,0.4"),
)
WORDINGS = (
    *("--task", "wordings", "--layers", "0,1"),
    *("--valid-share", 0, "--strengths", "0.2,0.5,1"),  # a random model names no arm anyway
)
Run = Callable[..., Path]


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    save_tiny(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def run(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `train-steering` beside the model."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.chdir(tiny.parent)

    def call(*words: object) -> Path:
        with pytest.raises(SystemExit) as end:
            train_steering([str(word) for word in words])
        assert end.value.code in (0, 2)
        return tiny.parent

    return call


@pytest.fixture
def refused(run: Run, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Run what cannot be done and return its one sentence."""

    def call(*words: object) -> str:
        root = run(*words)
        output = capsys.readouterr().err
        assert output.count("\n") == 1, output
        assert output.startswith(f"train-steering {words[0]}: ")
        assert not list(root.glob("artifacts/*/*"))
        return output

    return call


def test_a_run_leaves_a_vector_and_a_report(run: Run) -> None:
    root = run("east", "tiny", *SMALL)
    artifact = Artifact.load(root / "artifacts/tiny/explore")
    spec = artifact.manifest.steering
    assert spec is not None
    assert list(spec.norms) == [1]
    assert spec.features == 16
    assert float(artifact.tensors[tensor_name(1)].norm()) > 0
    (folder,) = (root / "runs").iterdir()
    page = (folder / "steering.md").read_text()
    for word in ("shuffled", "Gaussian", "uncentered", "temperature 3", "slots:2", "sampled"):
        assert word in page
    assert (folder / "steering.png").stat().st_size > 10_000


def test_a_vector_of_many_wordings_is_chosen_and_tested_on_others(run: Run) -> None:
    root = run("east", "tiny", *SMALL, *WORDINGS, "--transfer", "questions:3")
    (folder,) = (root / "runs").iterdir()
    page = (folder / "steering.md").read_text()
    for word in ("in 4 wordings", "held-out wordings", "training wordings", "questions:3"):
        assert word in page
    assert "transfer to wordings that it was neither made nor chosen on" in " ".join(page.split())
    artifact = Artifact.load(root / "artifacts/tiny/explore")
    assert artifact.manifest.metrics["num_steps"] == 12  # one step of 3 x 4 episodes


def test_wordings_of_ones_own(run: Run) -> None:
    lines = [
        {
            "opening": f"Game {n}: " + "{arms}?",
            "feedback": "{reward}.",
            "question": "Which?",
            "answer_prefix": f"Take{n}",
            "arms": ["x", "y", "z"],
        }
        for n in range(4)
    ]
    Path("mine.jsonl").write_text("\n".join(map(json.dumps, lines)))
    words = ("--wordings", "mine.jsonl", "--transfer", "")
    root = run("east", "tiny", *SMALL, *WORDINGS, *words)
    (page,) = (root / "runs").glob("*/steering.md")
    assert "| Take2 |" in page.read_text()  # of every four, the third is held out


def test_a_killed_run_goes_on_and_ends_the_same(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    root = run("east", "tiny", *SMALL)
    first = Artifact.load(root / "artifacts/tiny/explore")
    lost = min((root / "runs").glob("*/testing-fruits-*.safetensors"))
    lost.unlink()
    read = list[Any]()

    def counting(*words: Any) -> Any:
        read.append(words)
        return EpisodeReader(*words)

    monkeypatch.setattr(cache, "EpisodeReader", counting)
    run("east", "tiny", *SMALL)
    assert len(read) == 1
    again = Artifact.load(root / "artifacts/tiny/explore")
    assert torch.equal(first.tensors[tensor_name(1)], again.tensors[tensor_name(1)])
    assert first.manifest.metrics == again.manifest.metrics
    run("east", "tiny", *SMALL, "--fresh")
    assert len(read) > 3


def test_a_log_of_ones_own_is_read_by_sampling(run: Run) -> None:
    """Some of a random model's bytes are letters, so that a few answers name an action."""
    lines = [
        {
            "episode": n,
            "step": step,
            "prompt": "x" * (step + n),
            "actions": list(ascii_lowercase),
        }
        for n in range(12)
        for step in range(3)
    ]
    Path("log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    drawn = ("--estimator", "sampled", "--miller-madow", "--completions", 60, "--max-tokens", 1)
    root = run("east", "tiny", *SMALL, "--task", "log.jsonl", "--transfer", "", *drawn)
    files = sorted((root / "runs").glob("*/sampling-answers-*.safetensors"))
    counts = torch.cat([load_file(file)["counts"] for file in files])
    assert counts.shape == (12, 26)
    assert 12 < int(counts.sum()) < 12 * 60 * 0.3
    assert list((root / "runs").glob("*/choosing-a-layer-000.safetensors"))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--task", "nothing"), "nothing: cannot be read"),
        (("--transfer", "chess"), "`chess` is not a task"),
        (("--wordings", "mine.jsonl"), "--wordings: belongs to --task wordings, not to `fruits`"),
        (("--task", "wordings", "--wordings", "mine.jsonl"), "mine.jsonl: cannot be read"),
        (("--transfer", "slots:9"), "`slots:9`: a bandit has 2 to 8 arms"),
        (("--arms", "1"), "2 to 8 arms"),
        (("--layers", "1,7"), "there is no layer 7: the model's layers are 0 to 1"),
        (("--layers", "b"), "--layers b: Value error, write numbers and ranges"),
        (("--strengths", "0.1,x"), "write numbers up to 10"),
        (("--strengths", "0"), "write numbers up to 10"),
        (("--estimator", "guess"), "--estimator guess: Input should be 'logit' or 'sampled'"),
        (("--name", "explore"), "write MODEL/NAME"),
    ],
)
def test_bad_input_is_refused_in_a_sentence(
    refused: Callable[..., str], words: tuple[str, ...], expected: str
) -> None:
    assert expected in refused("east", "tiny", *SMALL, *words)


def test_a_model_that_is_none(refused: Callable[..., str]) -> None:
    assert "no config.json" in refused("east", "elsewhere", *SMALL)


def test_too_few_runs_and_runs_without_a_signal(refused: Callable[..., str]) -> None:
    step = {"prompt": "Which?", "actions": ["left", "up"]}
    lines = [json.dumps(step | {"episode": n // 2, "step": n % 2}) for n in range(30)]
    Path("log.jsonl").write_text("\n".join(lines))
    call = ("east", "tiny", *SMALL, "--task", "log.jsonl", "--held-out", 5)
    assert "no entropy signal" in refused(*call)
    assert "too few to choose on 8" in refused(*call[:-1], 8)


def test_a_vector_survives_the_way_through_a_control_vector_file(run: Run) -> None:
    root = run("east", "tiny", *SMALL)
    run("export", "artifacts/tiny/explore", "v.gguf")
    run("import", "v.gguf", "--name", "tiny/back", "--model", "tiny")
    one, other = (Artifact.load(root / f"artifacts/tiny/{name}") for name in ("explore", "back"))
    assert torch.equal(one.tensors[tensor_name(1)], other.tensors[tensor_name(1)])
    assert one.manifest.identity == other.manifest.identity
    assert other.manifest.steering is not None
    assert other.manifest.steering.norms[1] > 0
    run("export", "artifacts/tiny/explore", "w.gguf", "--strength-relative", "0.5")
    run("import", "w.gguf", "--name", "tiny/scaled", "--model", "tiny")
    scaled = Artifact.load(root / "artifacts/tiny/scaled").tensors[tensor_name(1)]
    assert one.manifest.steering is not None
    assert float(scaled.norm()) == pytest.approx(0.5 * one.manifest.steering.norms[1], rel=1e-5)


def test_a_vector_of_another_architecture_needs_force(
    refused: Callable[..., str], run: Run
) -> None:
    write_control_vector(Path("v.gguf"), {1: torch.ones(16)}, "qwen2")
    words = ("import", "v.gguf", "--name", "tiny/other", "--model", "tiny")
    assert "`qwen2`, the model is `llama`: add --force" in refused(*words)
    root = run(*words, "--force")
    assert Artifact.load(root / "artifacts/tiny/other").manifest.steering is not None


def test_files_that_cannot_be_exchanged(refused: Callable[..., str]) -> None:
    assert "manifest.json is missing" in refused("export", "artifacts", "v.gguf")
    assert "cannot be read" in refused("import", "v.gguf", "--name", "tiny/back")
