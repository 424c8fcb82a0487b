"""Which runner a server uses, and which flags it refuses by name."""

import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import vllm.engine.arg_utils
import vllm.triton_utils
from vllm.entrypoints.cli.serve import ServeSubcommand
from vllm.utils.argparse_utils import FlexibleArgumentParser

from server.commands.model_runner import VARIABLE, Runner, choose_runner
from server.worker.supported import EngineSettings, refuse_controls, refuse_steering


def arguments(**said: Any) -> Any:
    """Parsed arguments of `vllm serve`, at their defaults but for what is said."""
    sizes = ("pipeline_parallel_size", "prefill_context_parallel_size")
    drafts = ("speculative_config", "spec_method", "spec_model", "spec_tokens")
    defaults = {
        **dict.fromkeys((*sizes, "decode_context_parallel_size"), 1),
        **dict.fromkeys((*drafts, "watermark_config", "enable_batch_sharded_sampling")),
        "enable_dbo": False,
    }
    return SimpleNamespace(**{**defaults, **said})


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, bool]:
    """A machine where Triton runs; vLLM uses V2 unless the test says otherwise."""
    says = {"v2": True}

    class EngineArgs:
        @classmethod
        def from_cli_args(cls, args: Any) -> "EngineArgs":
            args.speculative_config = "changed"  # as vLLM does
            return cls()

        def create_engine_config(self) -> Any:
            return SimpleNamespace(use_v2_model_runner=says["v2"])

    monkeypatch.setattr(vllm.triton_utils, "HAS_TRITON", True)
    monkeypatch.setattr(vllm.engine.arg_utils, "AsyncEngineArgs", EngineArgs)
    return says


@pytest.mark.parametrize(
    ("flag", "variable", "expected"),
    [
        (None, "0", Runner.V1),
        (None, "1", Runner.V2),
        (Runner.V1, "1", Runner.V1),
        (Runner.V2, "0", Runner.V2),
        (Runner.V1, None, Runner.V1),
        (Runner.V2, None, Runner.V2),
    ],
)
def test_the_flag_overrides_the_variable_which_overrides_vllm(
    flag: Runner | None,
    variable: str | None,
    expected: Runner,
    monkeypatch: pytest.MonkeyPatch,
    gpu: dict[str, bool],
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    if variable is not None:
        monkeypatch.setenv(VARIABLE, variable)
    for gpu["v2"] in (True, False):
        assert choose_runner(arguments(), flag) == expected


def test_the_default_is_vllms_own_choice(
    monkeypatch: pytest.MonkeyPatch, gpu: dict[str, bool]
) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    args = arguments(speculative_config={"method": "ngram_gpu"})
    assert choose_runner(args, None) == Runner.V2
    assert args.speculative_config == {"method": "ngram_gpu"}, "the arguments are left alone"
    gpu["v2"] = False
    assert choose_runner(args, None) == Runner.V1


def test_without_triton_as_on_a_cpu_it_is_v1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(vllm.triton_utils, "HAS_TRITON", False)
    assert choose_runner(arguments(), None) == Runner.V1


def test_a_watermark_selects_v2_as_vllm_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the variable says; so the class of the processor is that of the runner."""
    monkeypatch.setenv(VARIABLE, "0")
    assert choose_runner(arguments(watermark_config={}), None) == Runner.V2


# -- refusals ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "is_v2", "flag"),
    [
        ({"watermark_config": {}}, False, "--watermark-config"),
        ({"speculative_config": {"method": "ngram"}}, False, "--speculative-config"),
        ({"spec_method": "ngram"}, False, "--speculative-config"),
        ({"enable_batch_sharded_sampling": True}, True, "--enable-batch-sharded-sampling"),
        ({"pipeline_parallel_size": 2}, True, "--pipeline-parallel-size"),
        ({"pipeline_parallel_size": 2}, False, "--pipeline-parallel-size"),
        ({"prefill_context_parallel_size": 2}, True, "--prefill-context-parallel-size"),
        ({"decode_context_parallel_size": 2}, False, "--decode-context-parallel-size"),
    ],
)
def test_what_does_not_work_beside_controls_is_refused_by_name(
    said: dict[str, Any], is_v2: bool, flag: str
) -> None:
    settings = EngineSettings.of_arguments(arguments(**said), is_v2=is_v2)
    with pytest.raises(ValueError, match=f"^{flag}"):
        refuse_controls(settings)


@pytest.mark.parametrize(
    ("said", "is_v2"),
    [
        ({}, False),
        ({}, True),
        ({"speculative_config": {"method": "ngram_gpu"}}, True),
        ({"watermark_config": {}}, True),
    ],
)
def test_what_works_is_not_refused(said: dict[str, Any], is_v2: bool) -> None:
    settings = EngineSettings.of_arguments(arguments(**said), is_v2=is_v2)
    refuse_controls(settings)
    refuse_steering(settings)


def test_steering_is_refused_beside_adaptive_verification() -> None:
    drafts = {"method": "dspark", "enable_adaptive_verification": True}
    settings = EngineSettings.of_arguments(arguments(speculative_config=drafts), is_v2=True)
    refuse_controls(settings)
    with pytest.raises(ValueError, match="enable_adaptive_verification"):
        refuse_steering(settings)


@pytest.mark.parametrize(
    ("flags", "runner", "named"),
    [
        (["--watermark-config", "{}"], Runner.V1, "--watermark-config"),
        (["--spec-method", "ngram"], None, "--speculative-config"),
        (["--enable-batch-sharded-sampling"], None, "--enable-batch-sharded-sampling"),
        (["--pipeline-parallel-size", "2"], Runner.V2, "--pipeline-parallel-size"),
    ],
)
def test_flags_of_vllm_are_refused_by_name(
    flags: list[str], runner: Runner | None, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With vLLM's real parser, whose arguments the check reads."""
    monkeypatch.delenv(VARIABLE, raising=False)
    parser = FlexibleArgumentParser()
    ServeSubcommand().subparser_init(parser.add_subparsers(dest="subparser"))
    args = parser.parse_args(["serve", *flags])
    chosen = choose_runner(args, runner)
    with pytest.raises(ValueError, match=f"^{named} "):
        refuse_controls(EngineSettings.of_arguments(args, is_v2=chosen == Runner.V2))


def test_the_command_refuses_with_one_sentence_before_anything_loads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    command = [str(Path(sys.executable).with_name("entrostat")), "serve", str(tmp_path)]
    done = subprocess.run(
        [*command, "--model-runner", "v1", "--watermark-config", "{}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if line.startswith("entrostat serve:")]
    assert len(said) == 1
    assert said[0].startswith("entrostat serve: --watermark-config ")
