"""Laws: options, TOML and `--set` mean the same; a dry run refuses what the run refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.training.fake import Fake
from tests.unit.training.tiny import save_tiny
from training.cli.probe import train_probe
from training.cli.steering import train_steering

Run = Callable[..., tuple[int, str, str]]
PROBES = ("temperature", "difficulty", "inquiry")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a job in an empty folder; returns its exit code, output and errors."""
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.chdir(tmp_path)

    def call(job: str, *words: object) -> tuple[int, str, str]:
        command = train_steering if job == "east" else train_probe
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            command([job, *map(str, words)])
        output = capsys.readouterr()
        return int(end.value.code or 0), output.out, output.err

    return call


def settings(run: Run, *words: object) -> dict[str, object]:
    """What a dry run shows."""
    code, out, err = run("temperature", "--dry-run", *words)
    assert code == 0, err
    shown: dict[str, object] = json.loads(out[: out.rindex("}") + 1])
    return shown


def test_an_option_overrides_set_which_overrides_the_file_which_overrides_quick(run: Run) -> None:
    Path("job.toml").write_text("tokens = 3000\nmax_tokens = 33\ntail = 0.03\n")
    words = ("--quick", "--config", "job.toml", "--set", "max_tokens=44", "--set", "tail=0.04")
    found = settings(run, *words, "--tail", 0.05)
    assert (found["tokens"], found["max_tokens"], found["tail"]) == (3000, 44, 0.05)
    assert settings(run, "--quick")["max_tokens"] == 64
    assert settings(run)["max_tokens"] == 256


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--max-tokens", 0), "--max-tokens 0: Input should be greater than or equal to 1"),
        (("--set", "max_tokens=0"), "--set: max_tokens: Input should be greater"),
        (("--set", "max_token=9"), "--set: there is no setting `max_token`"),
        (("--set", "nothing"), "--set `nothing`: write KEY=VALUE"),
        (("--config", "job.toml"), "job.toml: there is no setting `maxtokens`"),
        (("--config", "none.toml"), "none.toml: cannot be read"),
    ],
)
def test_a_wrong_setting_is_named_by_where_it_was_given(
    run: Run, words: tuple[object, ...], expected: str
) -> None:
    Path("job.toml").write_text("maxtokens = 3\n")
    code, _, err = run("temperature", *words)
    assert code == 2
    assert err.startswith(f"train-probe temperature: {expected}")
    assert err.count("\n") == 1


REFUSED = [
    *((job, ("--name", "a/b/c")) for job in (*PROBES, "east")),
    *((job, ("--out", "file/below")) for job in (*PROBES, "east")),
    *((job, ("--runs", "file")) for job in (*PROBES, "east")),
    *((job, ("--config", "none.toml")) for job in (*PROBES, "east")),
    *((job, ("--server", "localhost:8000")) for job in PROBES),
    *((job, ("--checkpoint", ".")) for job in PROBES),
    *((job, ("nowhere",)) for job in (*PROBES, "east")),
    ("temperature", ("--prompts", "none.jsonl")),
    ("temperature", ("--prompts", "file")),
    ("temperature", ("--tokens", 1999)),
    ("difficulty", ("--task", "none.jsonl")),
    ("difficulty", ("--task", "few.jsonl", "--grader", "numeric")),
    ("difficulty", ("--problems", 49)),
    ("difficulty", ("--strategies", "none.toml")),
    ("difficulty", ("--gamma", 0.5)),
    ("inquiry", ("--task", "none.json")),
    ("inquiry", ("--task", "four.json")),
    ("inquiry", ("--level", 0.999, "--samples", 100)),
    ("east", ("tiny", "--task", "none.jsonl")),
    ("east", ("tiny", "--task", "short.jsonl", "--held-out", 1)),
    ("east", ("tiny", "--held-out", 1)),
    ("east", ("tiny", "--layers", "7")),
    ("east", ("tiny", "--layers", "b")),
    ("east", ("tiny", "--strengths", "0")),
    ("east", ("tiny", "--arms", "1")),
    ("east", ("tiny", "--estimator", "guess")),
]


@pytest.mark.parametrize(("job", "words"), REFUSED, ids=str)
def test_a_dry_run_refuses_what_the_run_refuses_in_the_same_words(
    run: Run, job: str, words: tuple[object, ...]
) -> None:
    save_tiny(Path("tiny"))
    Path("file").touch()
    line = {"prompt": "1 + 1?", "answer": "2"}
    Path("few.jsonl").write_text("\n".join(json.dumps(line | {"prompt": n}) for n in "abc"))
    labels = [{"name": name, "phrase": name} for name in "abcd"]
    query = {"question": "q?", "property": "p", "yes": ["a", "b"]}
    task = {"name": "t", "subject": "s", "labels": labels, "queries": [query]}
    Path("four.json").write_text(json.dumps(task))
    steps = [
        {"episode": n // 2, "step": n % 2, "prompt": "A or B?", "actions": ["A", "B"]}
        for n in range(12)
    ]
    Path("short.jsonl").write_text("\n".join(map(json.dumps, steps)))
    before = sorted(Path().rglob("*"))
    code, out, dry = run(job, "--dry-run", *words)
    assert (code, out) == (2, "")
    assert dry.count("\n") == 1
    assert sorted(Path().rglob("*")) == before
    assert run(job, *words) == (2, "", dry)


@pytest.mark.parametrize("job", ["temperature", "inquiry", "difficulty"])
def test_a_dry_run_asks_and_writes_nothing(run: Run, fake: Fake, job: str) -> None:
    before = sorted(Path().rglob("*"))
    code, out, err = run(job, "--dry-run", "--server", fake.url)
    assert (code, err) == (0, "")
    assert "nothing was started" in out
    assert fake.asked == []
    assert sorted(Path().rglob("*")) == before


@pytest.mark.parametrize("job", [*PROBES, "east"])
def test_help_names_every_option_uncut_and_the_duration(run: Run, job: str) -> None:
    code, out, _ = run(job, "--help")
    assert code == 0
    assert "…" not in out
    assert "Estimated duration: about" in " ".join(out.split())
    for option in ("--config", "--set", "--quick", "--dry-run", "--seed", "--fresh"):
        assert option in out
