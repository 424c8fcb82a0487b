import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import LogitsProcessors, MinPLogitsProcessor
from vllm.v1.sample.ops.topk_topp_sampler import random_sample
from vllm.v1.worker.worker_base import WorkerWrapperBase

from server.engine import plugin
from server.engine.kernels import Kernels
from server.worker.message import CONFIG_KEY, KEY, LAYERS_KEY, VECTORS_KEY
from tests.unit.server.engine.support import VOCAB, Record, asking, random_logits
from tests.unit.server.engine.test_difficulty import head, with_probe
from tests.unit.server.engine.test_runner_v1 import NUM_ROWS, Runner
from tests.unit.server.engine.test_steering import HIDDEN, VECTORS, Layer
from tests.unit.server.engine.test_steering import asking as steering
from tests.unit.server.engine.test_steering import make as steering_tables


@pytest.fixture(autouse=True)
def first_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    """One rank, no probes, no vectors and no compiler."""
    monkeypatch.setattr(plugin, "get_tensor_model_parallel_rank", lambda: 0)
    names = ("heads", "state_readers", "steering_vectors", "for_workers", "examine")
    nothing = SimpleNamespace(**dict.fromkeys(names, dict))
    monkeypatch.setattr(plugin, "load_artifacts", lambda _, **options: nothing)
    monkeypatch.setattr(Kernels, "warm_up", lambda kernels: warmed.append(kernels))
    warmed.clear()


warmed: list[Kernels] = []


def worker(additional_config: dict[str, Any] | None, runner: Any = None) -> Any:
    """A worker before its model is loaded."""
    loaded: list[str] = []

    def load_model(*arguments: str) -> str:
        loaded.extend(arguments)
        return "result"

    return SimpleNamespace(
        vllm_config=SimpleNamespace(additional_config=additional_config),
        load_model=load_model,
        model_runner=runner,
        loaded=loaded,
    )


def status(**counts: Any) -> dict[str, Any]:
    return {"steps": 0, "failures": 0, "lost": {}, "weight_updates": 0, **counts}


def vllm_config(**parallel: Any) -> Any:
    """A configuration beside which every control works, but for what is said."""
    sizes = ("pipeline_parallel_size", "prefill_context_parallel_size")
    usual = {**dict.fromkeys((*sizes, "decode_context_parallel_size"), 1), "use_ubatching": False}
    usual["enable_batch_sharded_sampling"] = False
    return SimpleNamespace(
        additional_config={"entrostat": {}},
        parallel_config=SimpleNamespace(**{**usual, **parallel}),
        speculative_config=None,
        watermark_config=None,
    )


def v1_runner() -> Any:
    runner: Any = Runner()
    runner.vllm_config = vllm_config()
    runner.get_model = torch.nn.Identity
    runner.device = torch.device("cuda")  # so that only the tests of generators replace them
    return runner


# -- switching on ------------------------------------------------------------------------------


def test_registering_twice_patches_once(monkeypatch: pytest.MonkeyPatch) -> None:
    attached: list[Any] = []
    initialized: list[Any] = []
    monkeypatch.setattr(WorkerWrapperBase, "init_device", lambda w: initialized.append(w))
    monkeypatch.setattr(plugin, "attach", attached.append)
    plugin.register()
    patched = WorkerWrapperBase.init_device
    plugin.register()
    assert WorkerWrapperBase.init_device is patched
    wrapper: Any = SimpleNamespace(worker="the worker")
    WorkerWrapperBase.init_device(wrapper)
    assert initialized == [wrapper]
    assert attached == ["the worker"]


@pytest.mark.parametrize("config", [None, {}, {"other": {}}])
def test_a_worker_that_was_not_switched_on_is_left_as_it_is(config: dict[str, Any] | None) -> None:
    one = worker(config)
    before = dict(vars(one))
    plugin.attach(one)
    assert vars(one) == before


def test_the_processor_is_bound_once_the_model_is_loaded_and_not_before() -> None:
    runner = v1_runner()
    runner.sampler.sample = original = object()
    one = worker({CONFIG_KEY: {}}, runner)
    plugin.attach(one)
    assert runner.sampler.sample is original
    assert one.entrostat_status() == status()
    assert one.load_model("fast") == "result"
    assert one.loaded == ["fast"]
    assert one.entrostat_processor is runner.processor
    assert warmed == [runner.controller.kernels]
    assert runner.sampler.sample is not original


def test_the_status_of_a_worker_is_what_its_controller_saw() -> None:
    runner = v1_runner()
    one = worker({CONFIG_KEY: {}}, runner)
    plugin.attach(one)
    one.load_model()
    runner.processor.before_sampling(random_logits(1))
    runner.controller.failures = 3
    runner.controller.publisher.lost = {"error": 5}
    assert one.entrostat_status() == status(steps=1, failures=3, lost={"error": 5})


class Loadable(torch.nn.Module):
    """A model that can load weights, as vLLM's do."""

    def load_weights(self, weights: list[str]) -> set[str]:
        return set(weights)


@pytest.mark.parametrize(
    "update",
    [
        lambda one: one.reload_weights(),
        lambda one: one.start_weight_update(),
        lambda one: one.model_runner.get_model().load_weights(["w"]),
    ],
    ids=["reload", "transfer", "extension"],
)
def test_probes_and_vectors_fail_once_the_weights_were_updated(update: Any) -> None:
    """They were made for other weights: their requests go on plainly and say so; others control."""
    runner = v1_runner()
    model = Loadable()
    runner.get_model = lambda: model
    one = worker({CONFIG_KEY: {}}, runner)
    one.reload_weights = one.start_weight_update = lambda: None
    plugin.attach(one)
    one.load_model()
    controller = runner.controller
    controller.read_difficulty(SimpleNamespace(compute_logits=None), {"m/probe": head()})
    controller.steering = steering_tables(4, NUM_ROWS)[0]
    controls = (asking(), with_probe(), {KEY: {**asking()[KEY], "steering": steering()}})
    for slot, extra in enumerate(controls):
        controller.add(slot, extra, 1.0)
    assert controller.failures == 0
    update(one)
    assert one.entrostat_status()["weight_updates"] == 1
    controller.add(3, asking(), 1.0)
    assert controller.failures == 0
    for extra in controls[1:]:
        failures = controller.failures
        controller.add(3, extra, 1.0)
        assert controller.failures > failures
    assert model.load_weights(["w"]) == {"w"}


def test_a_rank_that_does_not_sample_has_nothing_to_bind() -> None:
    assert plugin.bind(SimpleNamespace(sampler=None, vllm_config=vllm_config())) is None
    assert plugin.bind(SimpleNamespace(vllm_config=vllm_config())) is None


def test_processors_of_others_are_left_alone() -> None:
    runner = v1_runner()
    runner.input_batch.logitsprocs = LogitsProcessors([])
    assert plugin.bind(runner) is None
    sampler = SimpleNamespace(logits_processors=[SimpleNamespace(bind=None)])
    assert plugin.bind(SimpleNamespace(sampler=sampler, vllm_config=vllm_config())) is None


@pytest.mark.parametrize(("rank", "traced"), [(0, True), (1, False), (3, False)])
def test_one_rank_of_many_sends_the_trace_and_all_control(
    rank: int, traced: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "get_tensor_model_parallel_rank", lambda: rank)
    runner = v1_runner()
    assert plugin.bind(runner) is runner.processor
    runner.add("a", asking())
    runner.refresh()
    before = random_logits(1)
    after = before.clone()
    assert runner.processor is not None
    runner.processor.before_sampling(after)
    runner.processor.after_sampling(torch.zeros(1, dtype=torch.long))
    torch.testing.assert_close(after, before / 0.5)
    assert (runner.record != Record()) == traced


@pytest.mark.parametrize("alone", [True, False])
def test_output_tokens_are_spared_only_when_no_other_processor_may_read_them(alone: bool) -> None:
    runner = v1_runner()
    config: Any = SimpleNamespace(scheduler_config=SimpleNamespace(max_num_seqs=6))
    builtin = MinPLogitsProcessor(config, torch.device("cpu"), False)
    others: list[Any] = [] if alone else [Runner().processor]
    runner.input_batch.logitsprocs = LogitsProcessors([runner.processor, builtin, *others])
    runner.input_batch.logitsprocs_need_output_token_ids = True
    plugin.bind(runner)
    assert runner.input_batch.logitsprocs_need_output_token_ids is not alone


# -- steering ----------------------------------------------------------------------------------


class LlamaForCausalLM(torch.nn.Module):
    """Two layers of a family that can be steered."""

    def __init__(self) -> None:
        super().__init__()
        model: Any = torch.nn.Module()
        model.layers = torch.nn.ModuleList([Layer(), Layer()])
        for layer in model.layers:
            layer.self_attn = torch.nn.Module()
            layer.self_attn.attn = torch.nn.Identity()
        model.start_layer, model.end_layer = 0, 2
        self.model = model


def steerable(**parallel: Any) -> Any:
    """A runner as it is once a model is loaded, here inside its CUDA graph wrapper."""
    runner = v1_runner()
    model = LlamaForCausalLM()
    runner.model = SimpleNamespace(model=model)  # the wrapper; `get_model` unwraps
    runner.get_model = lambda: model
    runner.device = torch.device("cpu")
    runner.model_config = SimpleNamespace(get_hidden_size=lambda: HIDDEN, dtype=torch.bfloat16)
    config = runner.vllm_config = vllm_config(**parallel)
    config.scheduler_config = SimpleNamespace(max_num_seqs=NUM_ROWS, max_num_batched_tokens=16)
    config.compilation_config = SimpleNamespace(max_cudagraph_capture_size=24)
    return runner


def test_what_is_compiled_is_part_of_the_key_of_vllms_compile_cache() -> None:
    """Or a server with other layers, or other tables, would run the graph of this one."""
    keys = []
    for flags in ({}, {LAYERS_KEY: [1]}, {VECTORS_KEY: 1}, {VECTORS_KEY: 2}):
        runner = steerable()
        runner.vllm_config.additional_config[CONFIG_KEY] = flags
        plugin.steer(runner, VECTORS)
        layers = runner.get_model().model.layers
        hooked = [n for n, layer in enumerate(layers) if hasattr(layer, "steering_sum")]
        key = runner.vllm_config.additional_config[CONFIG_KEY]
        assert key[LAYERS_KEY] == hooked
        assert layers[1].steering_sum.shape == (key["steering_rows"] + 1, HIDDEN)
        assert layers[1].steering_sum.dtype == torch.bfloat16
        assert len(layers[1].steering_rows) == 24
        keys.append(json.dumps(key))
    assert len(set(keys)) == len(keys)


def test_steering_is_refused_where_it_would_reach_the_wrong_tokens() -> None:
    with pytest.raises(ValueError, match="--enable-dbo"):
        plugin.steer(steerable(use_ubatching=True), VECTORS)
    runner = steerable()
    runner.vllm_config.speculative_config = SimpleNamespace(enable_adaptive_verification=True)
    with pytest.raises(ValueError, match="enable_adaptive_verification"):
        plugin.steer(runner, VECTORS)


@pytest.mark.parametrize(
    ("parallel", "flag"),
    [
        ({"enable_batch_sharded_sampling": True}, "--enable-batch-sharded-sampling"),
        ({"prefill_context_parallel_size": 2}, "--prefill-context-parallel-size"),
        ({"decode_context_parallel_size": 2}, "--decode-context-parallel-size"),
    ],
)
def test_a_worker_refuses_to_bind_where_controls_do_not_work(
    parallel: dict[str, Any], flag: str
) -> None:
    """Also a server that was started by `vllm serve`."""
    runner = v1_runner()
    runner.vllm_config = vllm_config(**parallel)
    with pytest.raises(ValueError, match=flag):
        plugin.bind(runner)


# -- seeded requests in chunks -----------------------------------------------------------------


class Sampling:
    """What vLLM's CPU runner does with seeded requests: sample all rows, rewind discarded ones."""

    device = torch.device("cpu")

    def __init__(self, discarded: list[int], num_rows: int = 4, seeded: int = 4) -> None:
        generators = {row: torch.Generator().manual_seed(row) for row in range(seeded)}
        self.input_batch = SimpleNamespace(generators=generators, num_reqs=num_rows)
        mask = np.zeros(8, dtype=bool)
        mask[discarded] = True
        mask[num_rows:] = True  # rows beyond the batch are stale
        self.discard_request_mask = SimpleNamespace(np=mask)
        self.probabilities = torch.softmax(random_logits(num_rows), -1)

    def sample_tokens(self) -> list[int]:
        generators = self.input_batch.generators
        tokens: Tensor = random_sample(self.probabilities.clone(), generators)
        for row in self.discard_request_mask.np[: self.input_batch.num_reqs].nonzero()[0]:
            if (generator := generators.get(int(row))) is not None:
                generator.set_offset(generator.get_offset() - 4)
        return tokens.tolist()


def test_a_cpu_generator_cannot_be_rewound_which_is_why_this_exists() -> None:
    with pytest.raises(RuntimeError, match="offset"):
        Sampling(discarded=[1]).sample_tokens()


def test_a_discarded_row_lends_no_generator_and_gets_it_back_unused() -> None:
    runner = Sampling(discarded=[1, 3])
    generators = dict(runner.input_batch.generators)
    states = {row: generator.get_state() for row, generator in generators.items()}
    plugin.spare_discarded_generators(runner)
    runner.sample_tokens()
    assert runner.input_batch.generators == generators
    for row, generator in generators.items():
        assert torch.equal(generator.get_state(), states[row]) == (row in (1, 3))


def test_rows_that_are_kept_draw_the_tokens_they_would_have_drawn() -> None:
    undisturbed, spared = Sampling(discarded=[]), Sampling(discarded=[0, 2])
    plugin.spare_discarded_generators(spared)
    expected, got = undisturbed.sample_tokens(), spared.sample_tokens()
    assert (got[1], got[3]) == (expected[1], expected[3])


def test_a_prompt_in_chunks_draws_the_tokens_of_an_unchunked_one() -> None:
    whole, chunked = Sampling(discarded=[]), Sampling(discarded=[2])
    plugin.spare_discarded_generators(chunked)
    expected = [whole.sample_tokens()[2] for _ in range(5)]
    chunked.sample_tokens()
    chunked.sample_tokens()
    chunked.discard_request_mask.np[2] = False
    assert [chunked.sample_tokens()[2] for _ in range(5)] == expected


def test_generators_come_back_when_sampling_fails() -> None:
    runner: Any = Sampling(discarded=[1])
    generators = dict(runner.input_batch.generators)

    def fails() -> None:
        raise RuntimeError("boom")

    runner.sample_tokens = fails
    plugin.spare_discarded_generators(runner)
    with pytest.raises(RuntimeError, match="boom"):
        runner.sample_tokens()
    assert runner.input_batch.generators == generators


def test_a_discarded_row_without_a_generator_is_no_problem() -> None:
    runner = Sampling(discarded=[3], seeded=2)
    plugin.spare_discarded_generators(runner)
    assert len(runner.sample_tokens()) == 4
    assert all(0 <= token < VOCAB for token in runner.sample_tokens())
