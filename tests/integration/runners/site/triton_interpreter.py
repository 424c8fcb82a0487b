"""What vLLM 0.32 and Triton 3.9 need so that the V2 runner works on a CPU.

| patch | reason | fidelity |
|---|---|---|
| `has_triton` | vLLM asks for a CPU backend of Triton, the interpreter needs none | unchanged |
| `cast_masks` | some `&` of the interpreter give integer masks | unchanged |
| `patch_once` | every call of a device function patches `triton.language` again | unchanged |
| `sample_in_torch` | the interpreted kernel takes 2 s a row | the same noise, bit for bit |
| `wide_blocks` | one program instead of fifty per row | vLLM's own kernel |
| `torch_top_k_top_p` | the interpreter cannot run that kernel | vLLM's torch version |
| `keep_async` | the CPU platform switches asynchronous scheduling off | no real streams |

Nothing here covers CUDA graphs, real streams or compiled Triton.
"""

import inspect
import os
from collections.abc import Callable
from typing import Any


def has_triton(module: Any) -> None:
    module.HAS_TRITON = True


def cast_masks(module: Any) -> None:
    builder = module.InterpreterBuilder
    load, store = builder.create_masked_load, builder.create_masked_store

    def boolean(mask: Any) -> Any:
        if mask.data.dtype == bool:
            return mask
        return module.TensorHandle(mask.data.astype(bool), module.tl.int1)

    builder.create_masked_load = lambda self, pointers, mask, *rest: load(
        self, pointers, boolean(mask), *rest
    )
    builder.create_masked_store = lambda self, pointers, value, mask, *rest: store(
        self, pointers, value, boolean(mask), *rest
    )


def patch_once(module: Any) -> None:
    """Patch `triton.language` once per launch: nested calls took two fifths of the time."""
    patch, launch, tl = module._patch_lang, module.GridExecutor.__call__, module.tl
    patched: set[tuple[bool, ...]] = set()

    def patch_unless_patched(function: Any) -> Any:
        values = {id(value) for value in function.__globals__.values()}
        seen = tuple(id(language) in values for language in (tl, tl.core))
        if seen in patched:
            return module._LangPatchScope()
        patched.add(seen)
        return patch(function)

    def launch_patched(executor: Any, *args: Any, **kwargs: Any) -> Any:
        patched.clear()
        try:
            return launch(executor, *args, **kwargs)
        finally:
            patched.clear()

    module._patch_lang = patch_unless_patched
    module.GridExecutor.__call__ = launch_patched


def patch_interpreter(module: Any) -> None:
    cast_masks(module)
    patch_once(module)


def sample_in_torch(module: Any) -> None:
    """Draw the Gumbel noise of vLLM's kernel (murmur3 of seed, position and token) in numpy."""
    import numpy as np
    import torch

    kernel = module.gumbel_sample
    word = np.uint32

    def rotate(value: Any, bits: int) -> Any:
        return (value << word(bits)) | (value >> word(32 - bits))

    def mix(state: Any, key: Any) -> Any:
        key = rotate(key * word(0xCC9E2D51), 15) * word(0x1B873593)
        return rotate(state ^ key, 13) * word(5) + word(0xE6546B64)

    def uniform(seed: int, position: int, tokens: Any) -> Any:
        with np.errstate(over="ignore"):
            state = np.zeros(1, word)
            for part in (seed & 0xFFFFFFFF, (seed >> 32) & 0xFFFFFFFF, position & 0xFFFFFFFF):
                state = mix(state, np.array([part], np.uint64).astype(word))
            state = mix(state, tokens) ^ word(16)
            state = (state ^ (state >> word(16))) * word(0x85EBCA6B)
            state = (state ^ (state >> word(13))) * word(0xC2B2AE35)
            state = state ^ (state >> word(16))
        high = (state >> word(16)).astype(np.float32)
        low = (state & word(0xFFFF)).astype(np.float32)
        return high * np.float32(2.0**-16) + (low + np.float32(0.5)) * np.float32(2.0**-32)

    def gumbel_sample(
        logits: Any,
        slots: Any,
        temperature: Any,
        seed: Any,
        position: Any,
        apply_temperature: bool,
        is_drafting: bool,
        logits_cache: Any = None,
        logits_cache_col: Any = None,
        use_fp64: bool = False,
        logits_cache_source: Any = None,
    ) -> Any:
        if logits_cache is not None or use_fp64:
            cache = (logits_cache, logits_cache_col, use_fp64, logits_cache_source)
            return kernel(
                logits, slots, temperature, seed, position, apply_temperature, is_drafting, *cache
            )
        tokens = np.arange(logits.shape[1], dtype=word)
        drawn = torch.empty(len(logits), dtype=torch.int64)
        for row, slot in enumerate(slots.tolist()):
            values = logits[row].float()
            own = float(temperature[slot]) if slot >= 0 else 0.0
            if own != 0.0:
                if apply_temperature:
                    values = values / own
                at = int(position[row]) + (1 << 30 if is_drafting else 0)
                noise = torch.from_numpy(uniform(int(seed[slot]), at, tokens))
                values = values - torch.log(-torch.log1p(-noise))
            drawn[row] = values.argmax()
        return drawn

    module.gumbel_sample = gumbel_sample
    module.gumbel_sample_kernel = kernel
    """The kernel itself, for the test that compares the two."""


def wide_blocks(module: Any) -> None:
    """Blocks of `ENTROSTAT_TEST_BLOCK` tokens; a small vocabulary takes small ones."""
    block = int(os.environ.get("ENTROSTAT_TEST_BLOCK", "65536"))
    source = inspect.getsource(module.rejection_sample)
    for name, usual in (("RESAMPLE_BLOCK_SIZE", 1024), ("VOCAB_BLOCK_SIZE", 8192)):
        assert f"{name} = {usual}\n" in source, "vLLM's rejection_sample has changed"
        source = source.replace(f"{name} = {usual}\n", f"{name} = {block}\n")
    exec(source, module.__dict__)


def torch_top_k_top_p(module: Any) -> None:
    module.apply_top_k_top_p_triton = module.apply_top_k_top_p_pytorch


def keep_async(module: Any) -> None:
    """`ENTROSTAT_TEST_ASYNC=1` keeps asynchronous scheduling on."""
    if os.environ.get("ENTROSTAT_TEST_ASYNC") != "1":
        return
    check = module.CpuPlatform.check_and_update_config.__func__

    def check_and_keep(cls: Any, vllm_config: Any) -> None:
        check(cls, vllm_config)
        vllm_config.scheduler_config.async_scheduling = True

    module.CpuPlatform.check_and_update_config = classmethod(check_and_keep)


PATCHES: dict[str, Callable[[Any], None]] = {
    "vllm.triton_utils.importing": has_triton,
    "triton.runtime.interpreter": patch_interpreter,
    "vllm.v1.worker.gpu.sample.gumbel": sample_in_torch,
    "vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils": wide_blocks,
    "vllm.v1.sample.ops.topk_topp_sampler": torch_top_k_top_p,
    "vllm.platforms.cpu": keep_async,
}
"""By the module after whose import each runs."""
