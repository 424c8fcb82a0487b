import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from training.common.errors import TrainingError
from training.datasets.problem import Problem
from training.policy import configs as shipped
from training.policy.config import PolicyConfig, config_json, load_config, shipped_configs
from training.policy.grading import ProblemGrader
from training.policy.preparation import conversation, split_problems


@pytest.mark.parametrize("name", shipped_configs())
def test_every_shipped_config_is_valid(name: str) -> None:
    config = load_config(name)
    assert PolicyConfig.model_validate_json(config_json(config)) == config


def test_every_method_of_the_results_has_a_shipped_config() -> None:
    expected = {"plain", "target-entropy", "kl-cov", "clip-cov", "steer", "lp-reg", "hapo", "lora"}
    assert expected <= set(shipped_configs())


def test_a_value_can_be_changed_from_the_command_line() -> None:
    changes = ["optimizer.steps=7", "model=./x", 'objectives=["steer", "target_entropy"]']
    config = load_config("plain", changes)
    assert config.optimizer.steps == 7
    assert config.model == "./x"
    assert [objective.type for objective in config.objectives] == ["steer", "target_entropy"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["optimizer.stepps=7"], "optimizer.stepps: Extra inputs"),
        (["optimizer.steps=0"], "optimizer.steps: .*greater than or equal to 1"),
        (["optimizer"], "--set optimizer: write key=value"),
        (["seed.x=1"], "seed: "),
        (["model.x=1", "model.x.y=2"], "x is not a section"),
        (['objectives=["stear"]'], "stear"),
        (['objectives=["none", "steer"]'], '"none" cannot be combined'),
        (['objectives=["kl_cov"]'], '"kl_cov" has no effect while each rollout serves one'),
        (['objectives=["info_gain"]', "experimental=true"], "needs beliefs"),
        (['objectives=["hicra"]'], '"hicra" is experimental .* set experimental = true'),
        (["optimiser.steps=7"], "optimiser: this section is now called optimizer"),
        (["loss.loss_type=luspo", 'objectives=["steer"]'], "act on single tokens"),
        (["loss.importance_sampling_level=sequence", 'objectives=["steer"]'], "single tokens"),
        (["loss.loss_type=cispo", 'objectives=["lp_reg"]'], '"lp_reg" sets a clip range'),
        (["loss.delta=4.0", 'objectives=["lp_reg"]'], "delta = 4.0 caps"),
        (["controller.entropy_target=1.0"], 'actuator "coefficient" needs one of'),
        (["rollout.law={type='hapo'}"], 'the law "hapo" takes its statistics'),
        (
            ["rollout.law={type='fixed', temperature=1.2}", "rollout.backend=vllm-colocate"],
            "needs rollouts in this process",
        ),
        (["rollout.backend=entrostat"], "loads a LoRA adapter into the server"),
        (["rollout.controls={profile='steady'}"], 'controls need backend = "entrostat"'),
        (
            ["rollout.backend=entrostat", "lora.rank=8", "rollout.law={type='edt'}"],
            "needs rollouts in this process",
        ),
        (
            ["rollout.backend=entrostat", "lora.rank=8", "loss.loss_type=luspo"],
            'backend "entrostat" needs importance weights per token',
        ),
        (["rollout.num_iterations=3", "optimizer.save_every=10"], "a multiple of 3"),
        (["task.held_out=400"], "no problems are left to train on"),
    ],
    ids=str,
)
def test_invalid_configs_are_refused_with_one_sentence(changes: list[str], message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        load_config("plain", changes)


def test_a_missing_file_lists_the_shipped_configs() -> None:
    with pytest.raises(TrainingError, match=r"absent.toml: neither a file nor .*plain"):
        load_config("absent.toml")


def test_a_config_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("seed = 3\n[optimizer]\nsteps = 2\n")
    assert load_config(str(path)).seed == 3
    path.write_text("seed = \n")
    with pytest.raises(TrainingError, match="not TOML"):
        load_config(str(path))


def test_the_config_of_the_how_to_page_is_valid(tmp_path: Path) -> None:
    page = Path(__file__).resolve().parents[4] / "docs/how-to/train-policy.md"
    text = page.read_text().split("```toml\n")[1].split("```")[0]
    path = tmp_path / "mine.toml"
    path.write_text(text)
    assert load_config(str(path)).controller is not None


@pytest.mark.parametrize("name", ["cpu", "fsdp", "deepspeed"])
def test_accelerate_reads_the_shipped_configs(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    folder = Path(shipped.__file__).parent
    assert load_config_from_file(str(folder / f"{name}.yaml")).num_processes >= 2


def test_no_problem_is_both_trained_on_and_held_out() -> None:
    config = load_config("plain")
    questions = split_problems(config)
    asked = {problem.prompt for problem in questions.train}
    assert len(questions.held_out) == 48
    assert not asked & {problem.prompt for problem in questions.held_out}
    other = split_problems(load_config("plain", ["seed=1"]))
    assert other.held_out != questions.held_out


def test_prompts_end_with_the_instruction() -> None:
    config = load_config("plain", ["task.system=Be brief."])
    problem = split_problems(config).train[0]
    assert conversation(problem, config) == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"{problem.prompt} Reply with the number only."},
    ]


def test_the_reward_is_the_result_of_the_grader() -> None:
    problem = split_problems(load_config("plain")).train[0]
    grader = ProblemGrader([problem])
    completions = [[{"role": "assistant", "content": f"It is {problem.answer}"}], "none"]
    assert grader.is_right({"problem": 0}, f"= {problem.answer}")
    assert grader.accuracy_reward(completions, [0, 0]) == [1.0, 0.0]
    assert grader.accuracy_reward([[{"role": "tool", "content": problem.answer}]], [0]) == [0.0]


def test_the_reward_is_the_result_of_the_grader_in_any_thread() -> None:
    """TRL calls rewards in threads, where math-verify cannot use signals for its timeout."""
    cases = [
        ("math", "\\frac12", "So \\boxed{0.5}.", 1.0),
        ("math", "x+1", "\\boxed{1+x}", 1.0),
        ("math", "2", "The result is 2 2/3.", 0.0),
        ("numeric", "70000", "\\boxed{70{,}000}", 1.0),
        ("numeric", "10", "2^10", 0.0),
        ("choice", "B", "Answer: B and D", 0.0),
        ("contains", "Rowling", "J. K. Rowling", 1.0),
        ("exact", "Paris", "Answer: \\boxed{Paris}", 1.0),
    ]
    problems = [
        Problem.model_validate({"task": "t", "prompt": "?", "answer": answer, "grader": grader})
        for grader, answer, *_ in cases
    ]
    texts, indices = [text for _, _, text, _ in cases], range(len(cases))
    reward = ProblemGrader(problems).accuracy_reward
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda _: reward(texts, indices), range(4)))
    assert results == [[wanted for *_, wanted in cases]] * 4
    assert reward(texts, indices) == results[0]


def undescribed(schema: dict[str, Any]) -> list[str]:
    """Fields without a description, in all models of a schema."""
    models = {"": schema, **schema.get("$defs", {})}
    return [
        f"{model}.{name}"
        for model, body in models.items()
        for name, field in body.get("properties", {}).items()
        if not field.get("description")
    ]


def test_every_field_of_the_config_and_of_the_objectives_is_described() -> None:
    schema = PolicyConfig.model_json_schema()
    assert len(schema["$defs"]) > 30
    assert undescribed(schema) == []


def test_configs_are_validated_without_torch() -> None:
    """A misspelled key is refused before torch is imported."""
    program = (
        "import sys; from training.policy.config import load_config\n"
        "try: load_config('plain', ['optimizer.stepps=7'])\n"
        "except Exception as error: print(error)\n"
        "print(sorted({'torch', 'transformers', 'trl'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert "optimizer.stepps" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_experimental_objectives_need_the_experimental_flag() -> None:
    config = load_config("plain", ['objectives=["hicra"]', "experimental=true"])
    assert [objective.type for objective in config.objectives] == ["hicra"]
