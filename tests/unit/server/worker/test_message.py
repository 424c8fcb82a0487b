import json
from typing import Any

import pytest
from vllm.sampling_params import SamplingParams
from vllm.v1.engine import EngineCoreRequest
from vllm.v1.serial_utils import MsgpackDecoder, MsgpackEncoder

from probes.laws import EdtLaw
from server.engine.runner_v1 import EntropyProcessorV1
from server.engine.runner_v2 import EntropyProcessorV2
from server.worker.message import KEY, EngineControl, engine_control, refuse_reserved, reserved_keys


def control() -> EngineControl:
    return engine_control(
        law=EdtLaw.tag,
        parameters=EdtLaw(theta=0.5, base=0.8).row(),
        trace=2**40,
        address="ipc:///tmp/x",
        choices=3,
    )


@pytest.mark.parametrize("extra", [None, {}, {"other": 1, "my_entropy": 2}, {KEY: control()}])
def test_what_the_server_or_nobody_set_is_not_reserved(extra: dict[str, Any] | None) -> None:
    assert reserved_keys(extra) == []
    refuse_reserved(extra)


@pytest.mark.parametrize(
    ("extra", "key"),
    [
        ({KEY: dict(control())}, KEY),
        ({KEY: json.loads(json.dumps(control()))}, KEY),
        ({KEY: "x"}, KEY),
        ({KEY: None}, KEY),
        ({"entropy_law": 1}, "entropy_law"),
        ({"entropy.law": 1}, "entropy.law"),
        ({"entropyx": control()}, "entropyx"),
        ({KEY: control(), "entropy2": 1}, "entropy2"),
    ],
)
def test_a_reserved_key_from_a_client_is_refused_by_name(extra: dict[str, Any], key: str) -> None:
    assert reserved_keys(extra) == [key]
    with pytest.raises(ValueError, match=rf"`vllm_xargs\.{key}` is reserved"):
        refuse_reserved(extra)


@pytest.mark.parametrize("processor", [EntropyProcessorV1, EntropyProcessorV2])
def test_both_runners_refuse_what_no_route_checked(
    processor: type[EntropyProcessorV1] | type[EntropyProcessorV2],
) -> None:
    processor.validate_params(SamplingParams(extra_args={KEY: control(), "other": 1}))
    with pytest.raises(ValueError, match="reserved"):
        processor.validate_params(SamplingParams(extra_args={KEY: dict(control())}))


def test_a_control_crosses_to_the_worker_as_a_plain_map_with_the_same_content() -> None:
    request = EngineCoreRequest(
        request_id="r",
        prompt_token_ids=[1],
        mm_features=None,
        sampling_params=SamplingParams(extra_args={KEY: control(), "other": [1]}),
        pooling_params=None,
        arrival_time=0.0,
        lora_request=None,
        cache_salt=None,
        data_parallel_rank=None,
    )
    received = MsgpackDecoder(EngineCoreRequest).decode(MsgpackEncoder().encode(request))
    extra = received.sampling_params.extra_args
    assert extra == {KEY: dict(control()), "other": [1]}
    assert type(extra[KEY]) is dict


def test_a_control_survives_the_copy_that_vllm_makes_for_each_completion() -> None:
    copy = SamplingParams(n=3, extra_args={KEY: control()}).clone()
    assert reserved_keys(copy.extra_args) == []
    assert copy.extra_args == {KEY: control()}
