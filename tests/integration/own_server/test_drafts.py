"""A server whose steps accept several draft tokens: budgets and streams, by HTTP on V2.

`test_runners.py` compares traces, laws and probes beside drafts with transformers.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from probes.entropy import entropy_from_logits
from tests.conftest import FLAGS, PLAIN_PROBE, Server, entrostat, run_server, save_probes
from tests.integration.runners.engines import ENGINES
from tests.integration.support import MODEL, together
from tests.long import is_long

pytestmark = pytest.mark.skipif(not is_long(), reason="a server of its own on V2: LONG_TESTS=1")
NUM_DRAFTS = 3
QUESTION = "Repeat this until I say stop: " + "red fish, blue fish, " * 12


@pytest.fixture(scope="module")
def drafting(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("drafting")
    save_probes(folder / "artifacts", checkpoint)
    drafts = {
        "method": "ngram_gpu",
        "num_speculative_tokens": NUM_DRAFTS,
        "prompt_lookup_max": 3,
        "prompt_lookup_min": 1,
    }
    command = entrostat(
        *("serve", *FLAGS, "--model-runner", "v2", "--speculative-config", json.dumps(drafts)),
        *("--artifacts", str(folder / "artifacts")),
    )
    env = ENGINES["v2-drafts"].environment()
    with run_server(command, folder / "server.log", env=env) as running:
        yield running


def body(control: dict[str, Any] | None, max_tokens: int, **options: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "temperature": 0,
        "max_tokens": max_tokens,
        "return_token_ids": True,
        **({} if control is None else {"entropy": control}),
        **options,
    }


def send(server: Server, asked: dict[str, Any]) -> dict[str, Any]:
    answer = httpx.post(f"{server.url}/v1/chat/completions", json=asked, timeout=300)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def budgeted(budget: float) -> dict[str, Any]:
    """Ends every answer at a share of its `max_tokens`, whatever its class."""
    strategy = {"temperature": 0.5, "budget": budget}
    words = ("easy", "normal", "hard")
    return {"difficulty": {"probe": PLAIN_PROBE, "strategies": dict.fromkeys(words, strategy)}}


def num_steps(server: Server) -> int:
    return int(httpx.get(f"{server.url}/ready", timeout=60).json()["steps"])


@pytest.mark.timeout(900)
def test_a_budget_ends_an_answer_at_its_token_though_a_step_accepts_several(
    drafting: Server,
) -> None:
    before = num_steps(drafting)
    plain = send(drafting, body(None, 48))["choices"][0]["token_ids"]
    assert len(plain) == 48
    assert num_steps(drafting) - before < 40, "no drafts were accepted: nothing is tested"
    limits = range(17, 17 + 2 * NUM_DRAFTS + 2)  # one of them is inside every step's drafts
    asked = [body(budgeted(limit / 100), 100) for limit in limits]
    for limit, answer in zip(
        limits, together([lambda a=a: send(drafting, a) for a in asked]), strict=True
    ):
        (choice,) = answer["choices"]
        assert choice["entropy"]["fallback"] is None
        assert choice["entropy"]["difficulty"]["strategy"]["max_tokens"] == limit
        assert answer["usage"]["completion_tokens"] == len(choice["token_ids"]) == limit
        assert choice["finish_reason"] == "length"
        assert choice["token_ids"][:-1] == plain[: limit - 1], "only its last token is forced"


@pytest.mark.timeout(900)
def test_a_stream_has_one_record_for_each_accepted_token_in_order(
    drafting: Server, checkpoint: Path
) -> None:
    asked = body({"trace": "tokens"}, 40, stream=True, ignore_eos=True)
    ids, prompt, most = list[int](), list[int](), 0
    records, last = list[dict[str, Any]](), dict[str, Any]()
    with httpx.stream(
        "POST", f"{drafting.url}/v1/chat/completions", json=asked, timeout=300
    ) as stream:
        for line in stream.iter_lines():
            if not line.startswith("data: {"):
                continue
            event = json.loads(line.removeprefix("data: "))
            prompt = event.get("prompt_token_ids") or prompt
            for part in event["choices"]:
                own = (part.get("entropy") or {}).get("tokens") or []
                ids += part.get("token_ids") or []
                records += own
                most, last = max(most, len(own)), part.get("entropy") or last
    assert len(ids) == 40
    assert len(records) == last["num_tokens"] == 40
    assert last["fallback"] is None
    assert most > 1, "no step accepted a draft: nothing is tested"
    whole = send(drafting, body({"trace": "tokens"}, 40, ignore_eos=True))["choices"][0]
    assert whole["token_ids"] == ids
    assert [one["entropy"] for one in whole["entropy"]["tokens"]] == pytest.approx(
        [one["entropy"] for one in records], abs=1e-4
    )
    from transformers import AutoModelForCausalLM

    reference = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + ids])).logits[0, len(prompt) - 1 : -1]
    measured = torch.tensor([one["entropy"] for one in records])
    assert (measured - entropy_from_logits(logits)).abs().max() < 1e-3
