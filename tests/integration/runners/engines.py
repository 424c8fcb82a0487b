"""The engines that the tests drive: a runner, its scheduling, whether it compiles and drafts."""

import json
import os
from pathlib import Path
from typing import Any, NamedTuple

SITE = Path(__file__).parent / "site"


class Engine(NamedTuple):
    """One way to run vLLM."""

    v2: bool
    asynchronous: bool = False
    compiled: bool = False
    num_drafts: int = 0
    cuda: bool = False
    """On a GPU, where nothing of vLLM is patched and compiling includes CUDA graphs."""

    def environment(self) -> dict[str, str]:
        """Variables of the process that runs it, `PYTHONPATH` included."""
        root = Path(__file__).parents[3]
        own = {
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_PLUGINS": "entrostat",
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_USE_V2_MODEL_RUNNER": str(int(self.v2)),
            "PYTHONPATH": str(root),
        }
        if not self.cuda:
            own |= self.cpu_environment()
        return os.environ | own

    def cpu_environment(self) -> dict[str, str]:
        root = Path(__file__).parents[3]
        own = {
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # or every engine of the machine has core 0
            "ENTROSTAT_TEST_PATCHES": str(int(self.v2 or self.asynchronous)),
            "ENTROSTAT_TEST_ASYNC": str(int(self.asynchronous)),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": f"{SITE}:{root}",
        }
        if not self.compiled:
            own["TORCHDYNAMO_DISABLE"] = "1"
        return own

    def options(self) -> dict[str, Any]:
        """Arguments of `vllm.LLM`."""
        options: dict[str, Any] = {"enforce_eager": not self.compiled}
        if self.cuda:
            # vLLM refuses to start unless this share of the card is free; three engines share it.
            options["gpu_memory_utilization"] = 0.3
        if self.asynchronous:
            options["async_scheduling"] = True
        if self.num_drafts:
            options["speculative_config"] = {
                "method": "ngram_gpu",
                "num_speculative_tokens": self.num_drafts,
                "prompt_lookup_max": 3,
                "prompt_lookup_min": 1,
            }
        return options

    def flags(self) -> list[str]:
        """The same for `vllm serve`; behind `--enforce-eager`, which a compiled one takes back."""
        flags = ["--no-enforce-eager"] if self.compiled else []
        flags += ["--async-scheduling"] if self.asynchronous else []
        if self.num_drafts:
            flags += ["--speculative-config", json.dumps(self.options()["speculative_config"])]
        return flags


ENGINES = {
    "v1": Engine(v2=False),
    "v1-async": Engine(v2=False, asynchronous=True),
    "v2": Engine(v2=True),
    "v2-async": Engine(v2=True, asynchronous=True),
    "v2-compiled": Engine(v2=True, compiled=True),
    "v2-drafts": Engine(v2=True, num_drafts=2),
    "v2-async-drafts": Engine(v2=True, asynchronous=True, num_drafts=2),
}

GPU_ENGINES = {
    "gpu": Engine(v2=True, asynchronous=True, compiled=True, cuda=True),
    "gpu-drafts": Engine(v2=True, asynchronous=True, compiled=True, num_drafts=2, cuda=True),
}
"""What `make test-gpu` drives: as a server on a GPU runs, CUDA graphs included."""
