"""Whether drafts change what is sampled: vLLM's rejection sampler behind our processor on V2.

`python -m tests.integration.runners.speculation [--draws N]` gives N requests the same logits over
a small vocabulary and one draft token each, lets the processor control them and vLLM's own kernels
verify them, and compares the first tokens with the controlled distribution by a chi-square test.
The comparison with the uncontrolled distribution shows that the test can fail.
"""

import argparse
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

VOCAB, ROWS = 12, 2
BASE = 0.8
"""The requests' own temperature."""


def first_tokens(law: Any, draws: int, seed: int) -> tuple[Any, Any, Any]:
    """Tokens that requests under a law sample first, their distribution, and that without the law.

    Args:
        law: A temperature law.
        draws: Number of requests.
        seed: Of the logits, the drafts and the requests.
    """
    import torch
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

    from server.engine.runner_v2 import EntropyProcessorV2
    from tests.integration.runners.inprocess import Kept, control

    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(ROWS, VOCAB, generator=draw) * 2
    slots = torch.arange(draws, dtype=torch.int32)
    prompts = torch.full((draws,), 3, dtype=torch.int32)
    unused: Any = None
    lengths: Any = SimpleNamespace(gpu=prompts, np=prompts.numpy())
    processor = EntropyProcessorV2(
        unused,
        LogitsProcRequestState(
            device=torch.device("cpu"),
            max_num_reqs=draws,
            vocab_size=VOCAB,
            all_token_ids=unused,
            prompt_len=lengths,
            prefill_len=unused,
            total_len=unused,
        ),
    )
    processor.controller.report_to(Kept())  # type: ignore[arg-type]
    ends = torch.arange(0, ROWS * draws + 1, ROWS, dtype=torch.int32)
    position = torch.arange(ROWS).repeat(draws)
    expanded, offsets = slots.repeat_interleave(ROWS), position.to(torch.int32)
    drafts = torch.randint(VOCAB, (ROWS * draws,), generator=draw, dtype=torch.int32)
    temperatures = torch.full((draws,), BASE)

    def sample(hidden: Any, batch: Any, grammar: Any) -> tuple[Any, Any, Any]:
        context = LogitsContext(
            expanded_idx_mapping=expanded,
            idx_mapping=slots,
            idx_mapping_np=slots.numpy(),
            expanded_local_pos=offsets,
            input_ids=drafts,
            pos=position + 2,
            seq_lens_upper_bound_np=batch.seq_lens_cpu_upper_bound.numpy(),
        )
        rows = processor.apply(logits.repeat(draws, 1), context) / BASE
        sampled, num_sampled = rejection_sample(
            rows,
            None,
            drafts,
            ends,
            position + 2,
            slots,
            expanded,
            offsets,
            temperatures,
            torch.randint(2**62, (draws,), generator=draw),
            ROWS - 1,
        )
        return sampled, num_sampled, None

    runner = SimpleNamespace(sample=sample, req_states=SimpleNamespace(index_to_req_id={}))
    processor.bind(runner)
    from vllm.sampling_params import SamplingParams

    extra = control(law, trace=1)
    for slot in range(draws):
        processor.add_request(slot, SamplingParams(temperature=BASE, extra_args=extra))
    processor.apply_staged_writes()
    batch = SimpleNamespace(
        idx_mapping=slots,
        idx_mapping_np=slots.numpy(),
        cu_num_logits_np=ends.numpy(),
        query_start_loc_np=ends.numpy(),
        num_draft_tokens=draws * (ROWS - 1),
        seq_lens_cpu_upper_bound=torch.full((draws,), 3 + ROWS - 1, dtype=torch.int32),
    )
    sampled, _, _ = runner.sample(torch.zeros(ROWS * draws, 1), batch, None)
    controlled = logits[:1].clone()
    for group in processor.controller.groups(slots.numpy()[:1].astype("int64")):
        processor.controller.control(controlled, group, torch.zeros(1, dtype=torch.long))
    return (
        torch.bincount(sampled[:, 0].long(), minlength=VOCAB).numpy(),
        (controlled[0] / BASE).double().softmax(-1).numpy(),
        (logits[0] / BASE).double().softmax(-1).numpy(),
    )


def main() -> None:
    """Test every law that moves the temperature and print a line of JSON."""
    from tests.integration.runners.engines import ENGINES

    parser = argparse.ArgumentParser(prog="python -m tests.integration.runners.speculation")
    parser.add_argument("--draws", type=int, default=20_000)
    asked = parser.parse_args()
    environment = ENGINES["v2-drafts"].environment() | {"ENTROSTAT_TEST_BLOCK": "16"}
    if os.environ.get("PYTHONPATH") != environment["PYTHONPATH"]:  # the hook has to come first
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]], environment)

    from scipy.stats import chisquare

    from tests.unit.server.engine.support import DYNATEMP, EDT, ENTROPY_TARGET, FIXED

    results = {}
    for seed, law in enumerate((FIXED, EDT, DYNATEMP, ENTROPY_TARGET)):
        counts, controlled, plain = first_tokens(law, asked.draws, seed)
        results[law.model_dump()["type"]] = {
            "p_controlled": float(chisquare(counts, controlled * counts.sum()).pvalue),
            "p_uncontrolled": float(chisquare(counts, plain * counts.sum()).pvalue),
        }
    print("SPECULATION", json.dumps({"draws": asked.draws, "laws": results}), flush=True)


if __name__ == "__main__":
    main()
