"""End-to-end runs of `train-policy` on a tiny checkpoint: run, kill, resume, report."""

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from tests.unit.training.policy import tiny_policy as tiny
from tests.unit.training.policy.tiny_run import SETTINGS, config_in
from tests.waiting import wait_until
from training.cli.errors import one_sentence_errors
from training.cli.objective_table import objective_rows, print_objectives
from training.common.errors import TrainingError
from training.datasets.problem import Problem
from training.objectives.registry import OBJECTIVES
from training.policy import job, preparation
from training.policy.config import PolicyConfig, load_config, shipped_configs
from training.policy.evaluation import Evaluation, evaluate
from training.policy.job import train_policy
from training.policy.progress import STEPS_FILE, LiveView, StepLog, read_steps, sparkline
from training.policy.run_folder import last_checkpoint

TIMES = ("step_time", "processor_time")


def test_a_run_writes_a_checkpoint_measurements_and_a_report(whole: Path) -> None:
    assert [row["step"] for row in read_steps(whole / STEPS_FILE)] == [1, 2, 3, 4, 5, 6]
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in (whole / "checkpoint").iterdir()
    }
    report = (whole / "report.md").read_text()
    assert "steer, target_entropy" in report
    assert "R = -a e^H + b" in report
    assert "need 10 steps; this run has 6" in report
    assert "correlation " not in report.split("## Legend")[0]
    for term in ("pass@k", "calibration error", "STEER's", "nats"):
        assert term in report.split("## Legend")[1]
    assert (whole / "report.png").stat().st_size > 10_000
    assert json.loads((whole / "before.json").read_text())["entropies"]


def test_the_checkpoint_has_no_pickle_and_is_readable_by_others(whole: Path) -> None:
    files = [*(whole / "checkpoint").iterdir()]
    assert {path.suffix for path in files} == {".json", ".jinja", ".safetensors"}
    config = (whole / "checkpoint" / "config.json").stat().st_mode
    assert {path.stat().st_mode for path in files} == {config}


def test_a_finished_run_deletes_its_checkpoints_and_is_not_trained_again(
    whole: Path, tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not list(whole.glob("checkpoint-*"))
    monkeypatch.setattr(job, "build_trainer", None)  # a call would fail
    page = (whole / "report.md").read_text()
    (whole / "report.md").unlink()
    screen = StringIO()
    assert (
        train_policy(config_in(whole, tiny_checkpoint), Console(file=screen))
        == whole / "checkpoint"
    )
    assert "is finished" in screen.getvalue()
    assert (whole / "report.md").read_text() == page


def test_a_full_disk_ends_the_command_with_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(tmp_path / "steps.jsonl"))
    with pytest.raises(SystemExit) as end, one_sentence_errors("train-policy"):
        raise full
    assert end.value.code == 2
    output = capsys.readouterr().err
    assert output.count("\n") == 1
    assert "No space left on device" in output
    assert "steps.jsonl" in output


def test_a_killed_and_resumed_run_takes_the_same_steps(
    whole: Path, tiny_checkpoint: Path, tmp_path: Path
) -> None:
    options = [word for change in SETTINGS for word in ("--set", change)]
    options += ["--set", f"run={tmp_path}", "--set", f"model={tiny_checkpoint}"]
    process = subprocess.Popen(
        [sys.executable, "-m", "training", "plain", *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[4])},
    )
    wait_until(
        lambda: last_checkpoint(tmp_path) is not None or process.poll() is not None, pause=0.01
    )
    process.send_signal(signal.SIGKILL)
    _, errors = process.communicate()
    assert last_checkpoint(tmp_path) is not None, errors.decode()[-3000:]
    assert not (tmp_path / "checkpoint").exists(), "it was not killed in time"

    train_policy(config_in(tmp_path, tiny_checkpoint), Console(quiet=True))
    mine, theirs = (read_steps(run / STEPS_FILE) for run in (tmp_path, whole))
    assert [without_times(row) for row in mine] == [without_times(row) for row in theirs]
    one, other = (load_file(run / "checkpoint/model.safetensors") for run in (tmp_path, whole))
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("lora", [(), ("lora={rank=2, target_modules=['q_proj']}",)])
def test_a_run_stopped_after_its_last_step_takes_no_further_step(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lora: tuple[str, ...]
) -> None:
    def stop(config: PolicyConfig, *_: object) -> None:
        raise KeyboardInterrupt

    config = config_in(tmp_path, tiny_checkpoint, "optimizer.steps=2", *lora)
    with monkeypatch.context() as patch:
        patch.setattr(job, "make_servable", stop)
        with pytest.raises(KeyboardInterrupt):
            train_policy(config, Console(quiet=True))
    name = "adapter_model.safetensors" if lora else "model.safetensors"
    saved = load_file(tmp_path / "checkpoint-2" / name)
    target = train_policy(config, Console(quiet=True))
    assert [row["step"] for row in read_steps(tmp_path / STEPS_FILE)] == [1, 2]
    result = load_file(target / name)
    assert saved.keys() == result.keys()
    assert all(torch.equal(saved[key], result[key]) for key in saved)


def without_times(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in TIMES}


def test_a_folder_of_another_config_is_refused(whole: Path, tiny_checkpoint: Path) -> None:
    with pytest.raises(TrainingError, match="another seed"):
        train_policy(config_in(whole, tiny_checkpoint, "seed=1"), Console(quiet=True))


def test_a_lora_run_saves_an_adapter(tiny_checkpoint: Path, tmp_path: Path) -> None:
    lora = "lora={rank=2, target_modules=['q_proj']}"
    config = config_in(tmp_path, tiny_checkpoint, lora, "optimizer.steps=2")
    target = train_policy(config, Console(quiet=True))
    assert target == tmp_path / "adapter"
    assert (target / "adapter_model.safetensors").is_file()
    assert not (target / "model.safetensors").exists()


def test_tracker_folders_are_set_before_trl_is_imported(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Trackio reads its folder once, on import by TRL."""
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "")
    monkeypatch.setenv("TRACKIO_DIR", "")
    seen: list[str] = []

    def build(*_: object) -> None:
        seen.extend(os.environ[name] for name in ("TENSORBOARD_LOGGING_DIR", "TRACKIO_DIR"))
        raise TrainingError("enough")

    monkeypatch.setattr(job, "build_trainer", build)
    with pytest.raises(TrainingError, match="enough"):
        train_policy(
            config_in(tmp_path, tiny_checkpoint, "tracking=tensorboard"), Console(quiet=True)
        )
    assert seen == [str(tmp_path / "tracking")] * 2


def test_a_folder_without_a_checkpoint_is_refused(tmp_path: Path) -> None:
    config = load_config("plain", [f"model={tmp_path}", f"run={tmp_path / 'run'}"])
    with pytest.raises(TrainingError, match="is not a checkpoint"):
        train_policy(config, Console(quiet=True))


def test_sequences_that_do_not_divide_are_refused(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = config_in(tmp_path, tiny_checkpoint, "optimizer.micro_batch=5")
    with pytest.raises(TrainingError, match="cannot be divided into micro-batches of 5"):
        train_policy(config, Console(quiet=True))
    assert not list(tmp_path.iterdir()), "nothing may be in the way of the right command"


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("tokenizer.json", None, "tokenizer cannot be loaded"),
        ("chat_template.jinja", None, "has no chat template"),
        ("config.json", '{"hidden', "cannot be read"),
    ],
)
def test_an_incomplete_checkpoint_is_refused_with_one_sentence(
    tiny_checkpoint: Path, tmp_path: Path, file: str, text: str | None, message: str
) -> None:
    broken = tmp_path / "model"
    shutil.copytree(tiny_checkpoint, broken)
    if text is None:
        (broken / file).unlink()
    else:
        (broken / file).write_text(text)
    with pytest.raises(TrainingError, match=message):
        train_policy(config_in(tmp_path / "run", broken), Console(quiet=True))


def test_held_out_answers_are_sampled_as_in_training(tiny_checkpoint: Path) -> None:
    """They end at any end token of the model and ignore its repetition penalty."""
    model, tokenizer = tiny.model(), tiny.tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    problem = Problem(task="x", prompt="one", answer="e", grader="exact")
    say = [{"role": "user", "content": "one"}]

    def drawn(ends: list[int]) -> Evaluation:
        return evaluate(
            model,
            tokenizer,
            ends,
            [problem],
            [say],
            samples=64,
            batch=64,
            max_tokens=12,
            temperature=1.0,
            seed=0,
        )

    plain = drawn([1])
    many = drawn([1, *range(40, 96)])
    assert sum(many.lengths[0]) < sum(plain.lengths[0]) / 2
    model.generation_config.repetition_penalty = 5.0
    assert drawn([1]) == plain


def test_a_tracker_that_is_not_installed_is_named(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "trackio", None)
    with pytest.raises(TrainingError, match="pip install trackio"):
        train_policy(config_in(tmp_path, tiny_checkpoint, "tracking=trackio"), Console(quiet=True))
    assert not list(tmp_path.iterdir())


def printed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What `train-policy WORDS` prints."""
    from training.cli import policy as policy_cli

    with pytest.raises(SystemExit) as end:
        policy_cli.app([*words], prog_name="train-policy")
    assert end.value.code == 0
    return capsys.readouterr().out


def test_a_dry_run_shows_the_whole_config_and_what_it_will_cost(
    tiny_checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shown = printed(
        capsys, "lp-reg", "--dry-run", "--set", f"model={tiny_checkpoint}", "--set", f"run={run}"
    )
    assert json.loads(shown[: shown.rindex("}") + 1])["optimizer"]["learning_rate"] == 1e-5
    for fact in (
        "weights: ",
        "memory: about ",
        "disk: about ",
        "time per step: about ",
        "logits that an objective keeps",
    ):
        assert fact in shown
    assert not run.exists()


def test_the_list_shows_every_objective_and_config(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    shown = printed(capsys, "--list-objectives")
    for name in (*OBJECTIVES, *shipped_configs()):
        assert name in shown
    assert "experimental" in shown


def test_the_live_view_shows_reward_entropy_covariance_and_clipping(tmp_path: Path) -> None:
    screen = StringIO()
    console = Console(file=screen, force_terminal=True, width=120)
    view = LiveView(StepLog(tmp_path / STEPS_FILE), 2, console)
    state = SimpleNamespace(is_world_process_zero=True, global_step=1)
    logs = {"reward": 0.5, "step_entropy": 1.25, "covariance": 0.125, "grad_norm": 1.0}
    logs |= {"clip_ratio/region_mean": 0.0625, "objective/steer_weight": 0.875}
    view.on_train_begin(None, None, None)
    view.on_log(None, state, None, logs=logs)
    view.on_train_end(None, None, None)
    shown = screen.getvalue()
    for fact in ("step 1 of 2", "0.5", "1.25", "0.125", "0.0625", "steer_weight", "0.875"):
        assert fact in shown


def test_a_truncated_line_of_the_step_log_is_skipped(tmp_path: Path) -> None:
    path = tmp_path / STEPS_FILE
    path.write_text('{"step": 1}\n{"step": 2}\n{"ste')
    log = StepLog(path)
    log.drop_after(1)
    log.append(2, {"reward": 0.5, "text": "x"})
    assert read_steps(path) == [{"step": 1}, {"step": 2, "reward": 0.5}]


def test_a_sparkline_shows_the_shape() -> None:
    assert sparkline([0.0, 1.0, float("nan"), 0.5]) == "▁█▅"
    assert sparkline([2.0, 2.0]) == "▁▁"
    assert sparkline([]) == ""


def test_the_table_marks_experimental_objectives() -> None:
    rows = {row.name: row for row in objective_rows()}
    assert "experimental" in rows["hicra"].notes
    assert "experimental" not in rows["steer"].notes
    assert "reused rollouts" in rows["kl_cov"].notes
    assert rows["steer"].checked == "zz-haooo/STEER"
    assert rows["hicra"].checked == "nothing"


def test_the_table_says_in_words_what_is_measured() -> None:
    for row in objective_rows():
        assert not re.search(r"measures \w+(;|$)", row.notes), row


@pytest.mark.parametrize("width", [20, 40, 80, 200])
@pytest.mark.parametrize("terminal", [True, False])
def test_the_list_of_objectives_never_truncates_a_name(width: int, terminal: bool) -> None:
    screen = StringIO()
    print_objectives(Console(file=screen, width=width, force_terminal=terminal, no_color=True))
    shown = screen.getvalue()
    assert "\u2026" not in shown
    for name in [*OBJECTIVES, *shipped_configs()]:
        assert re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", shown), name


def test_a_test_set_of_the_hub_is_held_out_and_never_trained_on(
    tiny_checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(name: str, *_: str, split: str) -> list[dict[str, str]]:
        return [{"question": f"{split} {n}?", "answer": f"so #### {n}"} for n in range(300)]

    monkeypatch.setitem(sys.modules, "datasets", SimpleNamespace(load_dataset=rows))
    config = config_in(
        tmp_path, tiny_checkpoint, 'task.tasks=["openai/gsm8k"]', "task.num_problems=100"
    )
    questions = preparation.split_problems(config)
    assert [len(part) for part in questions] == [92, 8]
    assert {problem.prompt.split()[0] for problem in questions.train} == {"train"}
    assert {problem.prompt.split()[0] for problem in questions.held_out} == {"test"}
    with pytest.raises(TrainingError, match="MATH-500"):
        preparation.split_problems(
            config_in(tmp_path, tiny_checkpoint, 'task.tasks=["HuggingFaceH4/MATH-500"]')
        )


def test_every_task_is_held_out_and_trained_on(tiny_checkpoint: Path, tmp_path: Path) -> None:
    config = config_in(
        tmp_path, tiny_checkpoint, 'task.tasks=["arithmetic", "words"]', "task.num_problems=100"
    )
    for part in preparation.split_problems(config):
        assert {problem.task for problem in part} == {"arithmetic", "words"}
