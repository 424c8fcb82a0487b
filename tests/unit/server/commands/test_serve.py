import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from server.commands import serve
from server.commands.model_runner import Runner
from server.commands.serve import SteeringFlags
from server.worker.message import CONFIG_KEY, LAYERS_KEY, VECTORS_KEY

INSTALLED = {
    "vllm.general_plugins": ["entrostat", "lora_resolver"],
    "vllm.platform_plugins": ["npu"],
    "vllm.stat_logger_plugins": ["npu", "statsd"],
    "vllm.endpoint_plugins": ["entrostat", "somebody_else"],
}


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Third-party plugins beside ours."""

    def entry_points(group: str) -> list[EntryPoint]:
        return [EntryPoint(name, "module:attr", group) for name in INSTALLED.get(group, [])]

    monkeypatch.setattr(serve, "entry_points", entry_points)


# -- the allow-list ----------------------------------------------------------------------------


def test_without_an_allow_list_every_plugin_still_loads() -> None:
    # Endpoint plugins load only if named, so `somebody_else` stays disabled.
    assert serve.allowed_plugins(None) == ["entrostat", "lora_resolver", "npu", "statsd"]


@pytest.mark.parametrize(
    ("allowed", "expected"),
    [
        ("", ["entrostat"]),
        ("mine", ["mine", "entrostat"]),
        ("mine,entrostat", ["mine", "entrostat"]),
        ("mine,,other,mine", ["mine", "other", "entrostat"]),
        ("somebody_else", ["somebody_else", "entrostat"]),
    ],
)
def test_an_allow_list_is_extended_and_never_replaced(allowed: str, expected: list[str]) -> None:
    assert serve.allowed_plugins(allowed) == expected


def test_every_plugin_group_that_vllm_filters_is_kept() -> None:
    import vllm.plugins

    filtered = {
        value
        for name, value in vars(vllm.plugins).items()
        if name.endswith("PLUGINS_GROUP") and isinstance(value, str)
    }
    opt_in = {"vllm.endpoint_plugins"}
    assert filtered - opt_in == set(serve.ALLOW_LISTED)


# -- arguments for vLLM ------------------------------------------------------------------------


def arguments(**given: Any) -> Any:
    defaults: dict[str, Any] = {
        "logits_processors": None,
        "additional_config": None,
        "disable_access_log_for_endpoints": None,
    }
    return SimpleNamespace(**{**defaults, **given})


@pytest.mark.parametrize("runner", list(Runner))
def test_the_worker_side_is_the_class_of_the_chosen_runner(runner: Runner) -> None:
    args = arguments()
    serve.enable_worker_side(args, runner, SteeringFlags())
    (name,) = args.logits_processors
    assert name == f"server.engine.runner_{runner.value}:EntropyProcessor{runner.value.upper()}"
    assert args.additional_config == {CONFIG_KEY: {}}


def test_the_steering_flags_reach_the_worker() -> None:
    args = arguments()
    serve.enable_worker_side(args, Runner.V1, SteeringFlags([3, 5], 4))
    assert args.additional_config[CONFIG_KEY] == {LAYERS_KEY: [3, 5], VECTORS_KEY: 4}


def test_processors_and_config_of_the_user_are_kept() -> None:
    args = arguments(
        logits_processors=["mine:Class"],
        additional_config={"mine": 1},
        disable_access_log_for_endpoints="/mine",
    )
    serve.enable_worker_side(args, Runner.V1, SteeringFlags())
    assert args.logits_processors[0] == "mine:Class"
    assert len(args.logits_processors) == 2
    assert args.additional_config == {"mine": 1, CONFIG_KEY: {}}
    assert args.disable_access_log_for_endpoints == "/mine"


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        ([], False),
        (["--port", "1"], False),
        (["--model", "x"], True),
        (["--model=x"], True),
        (["--config", "c.yaml"], True),
        (["--model-impl", "vllm"], False),
        (["--served-model-name", "--model"], True),
    ],
)
def test_a_model_may_be_named_by_flag_or_config_file(argv: list[str], named: bool) -> None:
    assert serve.has_model_argument(argv) == named


# -- the address and the blocks ------------------------------------------------------------------


class Log:
    """Records log messages."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def info(self, message: str, *values: Any) -> None:
        self.lines.append(message % values)

    warning = info


def listening(**given: Any) -> tuple[str | None, str]:
    defaults = {"host": None, "port": 8000, "uds": None, "headless": False, "api_key": None}
    args, log = SimpleNamespace(**{**defaults, **given}), Log()
    serve.choose_address(args, log)
    return args.host, " ".join(log.lines)


def test_only_this_machine_can_connect_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    host, message = listening()
    assert host == "127.0.0.1"
    assert "--host" in message
    host, message = listening(host="0.0.0.0")
    assert host == "0.0.0.0"
    assert "ANYONE" in message
    for quiet in (
        {"host": "0.0.0.0", "api_key": ["secret"]},
        {"host": "localhost"},
        {"host": "::1"},
        {"uds": "/run/socket"},
        {"headless": True},
    ):
        assert listening(**quiet)[1] == ""


def test_blocks_are_small_on_cpus_by_default() -> None:
    args, log = SimpleNamespace(block_size=None), Log()
    serve.choose_block_size(args, log)
    assert args.block_size == 32
    assert "--block-size 32" in log.lines[0]
    args, log = SimpleNamespace(block_size=64), Log()
    serve.choose_block_size(args, log)
    assert (args.block_size, log.lines) == (64, [])


# -- command output ---------------------------------------------------------------------------


def entrostat(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("entrostat")), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--no-such-flag"], ["--no-such-flag"]),
        (["/no/such/model"], ["/no/such/model", "no such model folder"]),
        (["--profiles", "/no/such.toml"], ["/no/such.toml", "cannot be read"]),
        (["--artifacts", "/no/such/folder"], ["/no/such/folder", "no such folder"]),
        (["--steering-layers", "x"], ["--steering-layers x", "numbers separated by commas"]),
    ],
)
def test_an_invalid_flag_prints_one_sentence_and_exits_with_code_2(
    flags: list[str], words: list[str]
) -> None:
    done = entrostat("serve", *flags)
    # On a busy machine, vLLM loads so slowly that the supervisor reports progress.
    lines = [
        line for line in done.stderr.strip().splitlines() if not line.startswith("entrostat: ")
    ]
    assert done.returncode == 2
    assert "Traceback" not in done.stdout + done.stderr
    assert lines[-1].startswith("entrostat serve: ")
    assert all(word in lines[-1] for word in words)
    # Triton prints a message if it is installed without its CPU backend.
    assert [line for line in lines[:-1] if "Triton" not in line] == []


def test_an_error_in_a_profiles_file_names_file_profile_and_field(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text("[calm]\ncolor = 1\n")
    done = entrostat("serve", "--profiles", str(path))
    assert done.returncode == 2
    assert done.stderr == (
        "entrostat serve: mine.toml: `calm.color`: unknown key; known: "
        "profile, temperature, truncation, difficulty, steering, inquiry, confidence, abstain, "
        "vote, semantic, trace\n"
    )


@pytest.mark.parametrize("arguments", [["--help"], ["serve", "--help"]])
def test_help_imports_neither_torch_nor_vllm(arguments: list[str]) -> None:
    script = f"""
import sys
sys.argv = ["entrostat", *{arguments!r}]
from server.commands.entrostat import main
try:
    main()
except SystemExit as done:
    assert not done.code, done.code
heavy = {{"torch", "vllm", "transformers"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "serve" in done.stdout
    if "serve" in arguments:
        assert "--profiles" in done.stdout
        assert "--artifacts" in done.stdout
