"""Whether drafts change what is sampled: vLLM's rejection sampler behind our processor on V2.

`python -m tests.integration.runners.speculation [--draws N]` gives requests the same logits over a
small vocabulary and some draft tokens each, lets the processor control them and vLLM's own kernels
verify them, until N tokens are drawn, and compares these with the controlled distribution by a
chi-square test. The comparison with the uncontrolled distribution shows that the test can fail.

A request draws tokens until it rejects a draft, so the number of tokens depends on them. Whether a
position is reached depends on the positions before it alone, so the statistic is computed for every
position by itself and then added up.
"""

import argparse
import json
import os
import sys
from types import SimpleNamespace
from typing import Any

VOCAB, ROWS = 12, 8
BASE = 0.8
"""The requests' own temperature."""
BATCH = 500
"""Requests of one step."""


def verified_tokens(law: Any, draws: int, seed: int, logits: Any) -> tuple[Any, Any]:
    """Tokens that requests under a law sample, as counts, and their distribution.

    Args:
        law: A temperature law.
        draws: Number of requests.
        seed: Of the drafts and the requests.
        logits: Of every token, shape (1, VOCAB).

    Returns:
        How often each token was sampled at each position, shape (ROWS, VOCAB), and the controlled
        distribution.
    """
    import torch
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcRequestState
    from vllm.v1.worker.gpu.spec_decode.rejection_sampler_utils import rejection_sample

    from server.engine.runner_v2 import EntropyProcessorV2
    from tests.integration.runners.inprocess import Kept, control

    draw = torch.Generator().manual_seed(seed)
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
    likely = torch.rand(ROWS * draws, generator=draw) < 0.9  # such drafts are accepted often
    drafts = torch.where(likely, logits.argmax().to(torch.int32), drafts)
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
        rows = processor.apply(logits.repeat(ROWS * draws, 1), context) / BASE
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
        return SimpleNamespace(sampled_token_ids=sampled), num_sampled, None

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
    output, num_sampled, _ = runner.sample(torch.zeros(ROWS * draws, 1), batch, None)
    sampled = output.sampled_token_ids
    controlled = logits.clone()
    for group in processor.controller.groups(slots.numpy()[:1].astype("int64")):
        processor.controller.control(controlled, group, torch.zeros(1, dtype=torch.long))
    counts = [
        torch.bincount(sampled[num_sampled > position, position].long(), minlength=VOCAB)
        for position in range(ROWS)
    ]
    return torch.stack(counts).numpy(), (controlled[0] / BASE).double().softmax(-1).numpy()


def p_value(counts: Any, expected: Any) -> float:
    """Of a chi-square test at every position, added up; rare tokens are taken together.

    Args:
        counts: Shape (positions, vocab).
        expected: Probabilities, shape (vocab,).
    """
    import numpy as np
    from scipy.stats import chi2, chisquare

    statistic, degrees = 0.0, 0
    for observed in counts:
        rare = expected * observed.sum() < 5
        cells = [np.append(part[~rare], part[rare].sum()) for part in (observed, expected)]
        kept = cells[1] > 0
        shares = cells[1][kept] / cells[1][kept].sum()
        if len(shares) > 1:
            statistic += chisquare(cells[0][kept], shares * observed.sum()).statistic
            degrees += len(shares) - 1
    return float(chi2.sf(statistic, degrees))


def main() -> None:
    """Test every law that moves the temperature and print a line of JSON."""
    from tests.integration.runners.engines import ENGINES

    parser = argparse.ArgumentParser(prog="python -m tests.integration.runners.speculation")
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--law", choices=("fixed", "edt", "dynatemp", "entropy_target"))
    asked = parser.parse_args()
    environment = ENGINES["v2-drafts"].environment() | {"ENTROSTAT_TEST_BLOCK": "16"}
    if os.environ.get("PYTHONPATH") != environment["PYTHONPATH"]:  # the hook has to come first
        os.execve(sys.executable, [sys.executable, "-m", __spec__.name, *sys.argv[1:]], environment)

    import torch

    from tests.unit.server.engine.support import DYNATEMP, EDT, ENTROPY_TARGET, FIXED

    results = {}
    for seed, law in enumerate((FIXED, EDT, DYNATEMP, ENTROPY_TARGET)):
        name = str(law.model_dump()["type"])
        if asked.law not in (None, name):
            continue
        logits = torch.randn(1, VOCAB, generator=torch.Generator().manual_seed(seed)) * 3
        counts, controlled = verified_tokens(law, BATCH, seed << 16, logits)
        batches = 1
        while counts.sum() < asked.draws:
            counts = counts + verified_tokens(law, BATCH, (seed << 16) + batches, logits)[0]
            batches += 1
        plain = (logits[0] / BASE).double().softmax(-1).numpy()
        results[name] = {
            "tokens": int(counts.sum()),
            "requests": batches * BATCH,
            "p_controlled": p_value(counts, controlled),
            "p_uncontrolled": p_value(counts, plain),
        }
    print("SPECULATION", json.dumps({"draws": asked.draws, "laws": results}), flush=True)


if __name__ == "__main__":
    main()
