import itertools
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Semaphore
from typing import Any

import pytest
import torch

from probes.artifact import Artifact, ModelIdentity
from probes.drift import ReferenceHistogram
from probes.hapo_statistics import fit_hapo
from tests.unit.training.fake import GREETING, Fake, answer, running
from training.cli.probe import train_probe
from training.common.prompts import load_prompts
from training.common.server_pool import request_seed


class Bench:
    """A folder to work in and a server to ask."""

    def __init__(self, fake: Fake, folder: Path) -> None:
        self.fake = fake
        self.folder = folder

    def words(self, *more: object, out: str = "artifacts", runs: str = "runs") -> list[str]:
        given = {str(word) for word in more}
        server = [] if "--server" in given else ["--server", self.fake.url]
        tokens = [] if "--tokens" in given else ["--tokens", "2000"]
        return [
            *("temperature", "--concurrency", "4", *server, *tokens),
            *("--out", str(self.folder / out), "--runs", str(self.folder / runs)),
            *map(str, more),
        ]

    def train(self, *more: object, **folders: str) -> None:
        with pytest.raises(SystemExit) as end:
            train_probe(self.words(*more, **folders))
        assert end.value.code == 0

    def artifact(self, name: str = "tiny/entropy", out: str = "artifacts") -> Artifact:
        return Artifact.load(self.folder / out / name)

    def run_folder(self, runs: str = "runs") -> Path:
        (folder,) = (self.folder / runs).glob("temperature-tiny-*")
        return folder

    def stored(self, runs: str = "runs") -> list[dict[str, Any]]:
        lines = (self.run_folder(runs) / "traces.jsonl").read_text().split("\n")
        return [json.loads(line) for line in lines[:-1]]  # the last one may be half


@pytest.fixture
def bench(fake: Fake, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    monkeypatch.setattr("signal.signal", lambda *_: None)
    return Bench(fake, tmp_path)


def test_the_artifact_holds_the_statistics_of_the_sample(bench: Bench, checkpoint: Path) -> None:
    bench.train("--quantile", 0.7, "--tail", 0.02, "--seed", 5)
    artifact = bench.artifact()
    entropies: list[float] = []
    for number in itertools.count():
        if len(entropies) >= 2000:
            break
        tokens = answer(request_seed(5, number))["entropy"]["tokens"]
        entropies += [token["entropy"] for token in tokens]
    wanted = fit_hapo(torch.tensor(entropies, dtype=torch.float64), 0.7, 0.02)
    assert tuple(artifact.tensors["hapo"].tolist()) == pytest.approx(tuple(wanted), rel=1e-12)
    manifest = artifact.manifest
    assert (manifest.kind, manifest.model, manifest.seed) == ("entropy-statistics", "tiny", 5)
    assert manifest.identity == ModelIdentity.from_checkpoint(checkpoint)
    assert manifest.metrics["num_tokens"] == len(entropies)
    assert manifest.reference == ReferenceHistogram.of(entropies)
    assert manifest.settings["quantile"] == 0.7
    assert manifest.versions["vllm"] == "0.32.0"
    assert re.fullmatch("[0-9a-f]{64}", manifest.data_hash)


def test_prompts_are_asked_in_turn(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "one"}\n{"prompt": "two"}\n')
    bench.train("--prompts", path)
    stored = {line["number"]: line["messages"][0]["content"] for line in bench.stored()}
    assert [stored[number] for number in range(4)] == ["one", "two", "one", "two"]


def test_the_report_and_its_figure_lie_in_the_run_folder(bench: Bench) -> None:
    bench.train()
    page = (bench.run_folder() / "temperature-statistics.md").read_text()
    assert "](temperature-statistics.png)" in page
    assert f"| pivot | {bench.artifact().tensors['hapo'][0]:.4f} |" in page
    assert bench.artifact().manifest.data_hash in page
    image = (bench.run_folder() / "temperature-statistics.png").read_bytes()
    assert image.startswith(b"\x89PNG")
    assert len(image) > 10_000


def test_the_summary_is_printed(bench: Bench, capsys: pytest.CaptureFixture[str]) -> None:
    bench.train()
    printed = capsys.readouterr().out
    for word in ("tiny/entropy", "pivot", "scale_negative", "artifact:", "report:"):
        assert word in printed


def test_a_killed_run_repeats_nothing_and_ends_with_the_same_sample(bench: Bench) -> None:
    """The server answers `kept_answers` requests and holds the others back until the kill."""
    kept_answers = 8
    bench.train(out="whole", runs="whole-runs")
    bench.fake.asked.clear()
    gate, left = Event(), Semaphore(kept_answers)

    def held_back(body: dict[str, Any]) -> dict[str, Any]:
        if body["messages"][0]["content"] != GREETING and not left.acquire(blocking=False):
            gate.wait()
        return answer(body["seed"])

    bench.fake.reply = held_back
    script = "from training.cli.probe import train_probe; train_probe()"
    with subprocess.Popen(
        [sys.executable, "-c", script, *bench.words()],
        stdout=subprocess.DEVNULL,
    ) as process:
        while not list(bench.folder.glob("runs/*/traces.jsonl")) or (
            len(bench.stored()) < kept_answers
        ):
            assert process.poll() is None
            time.sleep(0.01)
        process.kill()
    kept = {line["seed"] for line in bench.stored()}
    assert len(kept) == kept_answers
    path = bench.run_folder() / "traces.jsonl"
    with path.open("ab") as file:  # as if the kill had come in the middle of a line
        file.write(path.read_bytes()[:70])

    with running(Path(bench.fake.root)) as other:  # the first may still count the killed run's
        gate.set()
        bench.train("--server", other.url)
        assert kept.isdisjoint(other.seeds)
        assert len(set(other.seeds)) == len(other.seeds)
    assert bench.artifact().manifest.data_hash == bench.artifact(out="whole").manifest.data_hash


def test_a_gap_left_by_a_kill_is_filled(bench: Bench) -> None:
    bench.train()
    before = bench.artifact().manifest.data_hash
    path = bench.run_folder() / "traces.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(line for line in lines if '"number":3,' not in line))
    bench.fake.asked.clear()
    bench.train()
    assert bench.fake.seeds == [request_seed(0, 3)]
    assert bench.artifact().manifest.data_hash == before


def test_a_finished_run_is_only_fitted_again(bench: Bench) -> None:
    bench.train()
    first = bench.artifact()
    bench.fake.asked.clear()
    bench.train("--quantile", 0.5)
    assert bench.fake.asked == []
    assert bench.artifact().manifest.data_hash == first.manifest.data_hash
    assert bench.artifact().tensors["hapo"][0] < first.tensors["hapo"][0]


def test_more_tokens_go_on_from_fewer(bench: Bench) -> None:
    bench.train()
    kept = set(bench.fake.seeds)
    bench.fake.asked.clear()
    bench.train("--tokens", 4000)
    assert bench.fake.asked
    assert kept.isdisjoint(bench.fake.seeds)
    assert bench.artifact().manifest.metrics["num_tokens"] >= 4000


@pytest.mark.parametrize("change", [("--seed", 1), ("--temperature", 0.7), ("--max-tokens", 8)])
def test_other_requests_are_another_run(bench: Bench, change: tuple[str, object]) -> None:
    bench.train()
    bench.train(*change)
    assert len(list(bench.folder.glob("runs/temperature-tiny-*"))) == 2


def test_a_fresh_run_asks_everything_again(bench: Bench) -> None:
    bench.train()
    asked = len(bench.fake.asked)
    bench.train("--fresh")
    assert len(bench.fake.asked) >= 2 * asked - 8  # the last few may or may not be under way


def test_several_servers_share_the_work(bench: Bench, checkpoint: Path) -> None:
    with running(checkpoint) as other:
        bench.train("--server", f"{bench.fake.url}, {other.url}/v1")
        assert abs(len(bench.fake.asked) - len(other.asked)) <= 1
        assert len(other.asked) > 5


def test_a_server_elsewhere_needs_a_checkpoint_here(bench: Bench, checkpoint: Path) -> None:
    bench.fake.root = "/elsewhere/model"
    bench.train("--checkpoint", checkpoint)
    assert bench.artifact().manifest.identity == ModelIdentity.from_checkpoint(checkpoint)


def test_the_artifact_is_called_as_asked(bench: Bench) -> None:
    bench.train("--name", "my.model/warm-1")
    assert bench.artifact("my.model/warm-1").manifest.model == "tiny"


def test_the_shipped_prompts_are_the_default(bench: Bench) -> None:
    bench.train()
    assert bench.artifact().manifest.settings["num_prompts"] == len(load_prompts(None))
