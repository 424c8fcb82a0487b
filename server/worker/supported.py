"""Settings of vLLM beside which controls would be wrong, or were never tested: refused by name.

`entrostat serve` checks the arguments before it loads anything. The worker checks the configuration
again, for servers that were started by `vllm serve`.
"""

from typing import Any, NamedTuple


class EngineSettings(NamedTuple):
    """The settings of vLLM that decide whether controls work."""

    is_v2: bool
    """Whether the runner is V2."""
    pipeline_parallel_size: int = 1
    prefill_context_parallel_size: int = 1
    decode_context_parallel_size: int = 1
    batch_sharded_sampling: bool = False
    ubatching: bool = False
    speculative: bool = False
    """Whether tokens are drafted."""
    adaptive_verification: bool = False
    watermark: bool = False

    @classmethod
    def of_arguments(cls, args: Any, *, is_v2: bool) -> "EngineSettings":
        """From the parsed arguments of `vllm serve`."""
        drafts: dict[str, Any] = args.speculative_config or {}
        shorthands = (args.spec_method, args.spec_model, args.spec_tokens)
        return cls(
            is_v2=is_v2,
            pipeline_parallel_size=args.pipeline_parallel_size,
            prefill_context_parallel_size=args.prefill_context_parallel_size,
            decode_context_parallel_size=args.decode_context_parallel_size,
            batch_sharded_sampling=bool(args.enable_batch_sharded_sampling),
            ubatching=bool(args.enable_dbo),
            speculative=bool(drafts) or any(one is not None for one in shorthands),
            adaptive_verification=bool(drafts.get("enable_adaptive_verification")),
            watermark=args.watermark_config is not None,
        )

    @classmethod
    def of_config(cls, config: Any, *, is_v2: bool) -> "EngineSettings":
        """From a `VllmConfig`."""
        parallel, drafts = config.parallel_config, config.speculative_config
        return cls(
            is_v2=is_v2,
            pipeline_parallel_size=parallel.pipeline_parallel_size,
            prefill_context_parallel_size=parallel.prefill_context_parallel_size,
            decode_context_parallel_size=parallel.decode_context_parallel_size,
            batch_sharded_sampling=bool(parallel.enable_batch_sharded_sampling),
            ubatching=parallel.use_ubatching,
            speculative=drafts is not None,
            adaptive_verification=drafts is not None and drafts.enable_adaptive_verification,
            watermark=config.watermark_config is not None,
        )


def refuse_controls(settings: EngineSettings) -> None:
    """Refuse settings beside which no control works.

    Raises:
        ValueError: One sentence that names the flag and the remedy.
    """
    one = settings
    for is_set, sentence in (
        (
            one.watermark and not one.is_v2,
            "--watermark-config needs vLLM's model runner V2: leave out --model-runner v1",
        ),
        (
            one.speculative and not one.is_v2,
            "--speculative-config needs vLLM's model runner V2, because V1 refuses drafts beside a "
            "logits processor: use --model-runner v2 (on a GPU), or leave the drafts out",
        ),
        (
            one.batch_sharded_sampling,
            "--enable-batch-sharded-sampling is not supported, because each rank would sample "
            "requests other than those whose controls it applies: leave it out",
        ),
        *(
            (size > 1, f"{flag} is not tested with controls: use --tensor-parallel-size instead")
            for flag, size in (
                ("--pipeline-parallel-size", one.pipeline_parallel_size),
                ("--prefill-context-parallel-size", one.prefill_context_parallel_size),
                ("--decode-context-parallel-size", one.decode_context_parallel_size),
            )
        ),
    ):
        if is_set:
            raise ValueError(sentence)


def refuse_steering(settings: EngineSettings) -> None:
    """Refuse settings beside which steering would reach the wrong tokens.

    Raises:
        ValueError: Naming the setting.
    """
    for name, is_set in (
        ("--enable-dbo", settings.ubatching),
        # The device alone decides which rows of a step belong to which request.
        ("enable_adaptive_verification", settings.adaptive_verification),
    ):
        if is_set:
            raise ValueError(f"steering does not work with {name}: leave it out, or the vectors")
