import subprocess
import sys
from typing import Any

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types import Completion
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from clients.entropy import (
    EntropyReport,
    EntropyStream,
    Law,
    Token,
    abstain,
    by_phase,
    confidence,
    controls,
    difficulty,
    dynatemp,
    edt,
    entropy_target,
    fixed,
    hapo,
    inquiry,
    law,
    mirostat,
    p_less,
    report,
    semantic,
    shuffled,
    steer,
    top_n_sigma,
    vote,
)
from tests.unit.clients.fake import HELLO, SUMMARY, WHOLE, Fake, Json, chunk, envelope, tokens


def parsed(event: Json) -> ChatCompletionChunk:
    return ChatCompletionChunk.construct(**event)


def fed(events: list[Json]) -> EntropyStream:
    answer = EntropyStream()
    for event in events:
        answer.feed(parsed(event))
    return answer


def completion(*entropies: Json | None) -> ChatCompletion:
    choices = [
        {"index": i, "message": {"role": "assistant", "content": ""}, "finish_reason": "stop"}
        | ({} if entropy is None else {"entropy": entropy})
        for i, entropy in enumerate(entropies)
    ]
    return ChatCompletion.construct(**envelope(choices, "chat.completion"))


@pytest.mark.parametrize(
    ("sent", "wire"),
    [
        (fixed(0.7), {"type": "fixed", "temperature": 0.7}),
        (law("edt", theta=0.3), {"type": "edt", "theta": 0.3}),
        (hapo(), {"type": "hapo", "tau": 0.05}),
        (
            hapo(0.2, statistics="a/b"),
            {"type": "hapo", "tau": 0.2, "statistics": "a/b"},
        ),
        (edt(), {"type": "edt", "theta": 0.5, "base": 0.8}),
        (dynatemp(0.3), {"type": "dynatemp", "range": 0.3, "exponent": 1.0}),
        (
            entropy_target(1.2, temperature_max=1.5),
            {
                "type": "entropy_target",
                "entropy_target": 1.2,
                "temperature_min": 0.1,
                "temperature_max": 1.5,
                "side": "ceiling",
            },
        ),
        (shuffled((0.5, 1.0)), {"type": "shuffled", "temperatures": [0.5, 1.0]}),
        (
            shuffled([0.5], weights=[3]),
            {"type": "shuffled", "temperatures": [0.5], "weights": [3]},
        ),
    ],
)
def test_a_law_is_what_the_wire_says(sent: Law, wire: Json) -> None:
    assert sent == wire


def test_the_server_accepts_every_law_as_built() -> None:
    from server.wire.request import Control

    histogram = shuffled([0.5, 1.0], [2.0, 1.0])
    for sent in (fixed(0.7), hapo(), edt(), dynatemp(), entropy_target(1.2), histogram):
        asked = controls(sent, profile="adaptive", trace="tokens")["entropy"]
        control = Control.model_validate(asked)
        assert control.model_dump(mode="json", exclude_none=True) == asked


def test_what_was_not_asked_is_not_sent() -> None:
    assert controls() == {"entropy": {}}
    assert controls(profile="adaptive") == {"entropy": {"profile": "adaptive"}}


def test_every_choice_has_its_own_report() -> None:
    answer = completion(SUMMARY, {**SUMMARY, "entropy_mean": 3.0}, None)
    means = [r and r.entropy_mean for r in map(report, answer.choices)]
    assert means == [1.25, 3.0, None]


def test_a_newer_servers_fields_are_kept_and_harmless() -> None:
    newer = {
        **SUMMARY,
        "weather": {"label": "easy"},
        "tokens": [{"entropy": 1.0, "temperature": None, "surprise": 2.0}],
    }
    read = report(completion(newer).choices[0])
    assert read is not None
    assert read.model_extra == {"weather": {"label": "easy"}}
    assert read.tokens is not None
    assert (read.tokens[0].entropy, read.tokens[0].temperature) == (1.0, None)


def test_a_report_of_the_server_reads_back_equal() -> None:
    from server.wire.report import Report as Sent
    from server.wire.report import TokenReport

    sent = Sent(
        **{**SUMMARY, "tokens": [TokenReport(entropy=None, temperature=0.5)]},
    ).model_dump()
    read = report(completion(sent).choices[0])
    assert read is not None
    assert read.model_dump(mode="json") == sent


def test_null_means_absent_everywhere() -> None:
    assert (
        EntropyReport.model_validate(dict.fromkeys(EntropyReport.model_fields)) == EntropyReport()
    )


def test_a_stream_says_what_one_answer_says() -> None:
    whole = report(ChatCompletion.construct(**WHOLE).choices[0])
    streamed = fed(HELLO)
    assert streamed.text() == "Hello"
    assert streamed.report() == whole


def test_pieces_carry_their_own_tokens() -> None:
    pieces = [p for event in HELLO for p in EntropyStream().feed(parsed(event))]
    assert [(p.text, [t.entropy for t in p.tokens], p.choice) for p in pieces] == [
        ("Hel", [0.5], 0),
        ("lo", [1.25, 2.0], 0),
    ]


def test_no_report_before_the_end_of_the_stream() -> None:
    assert fed(HELLO[:-1]).report() is None


def test_a_server_without_entropy_still_streams() -> None:
    answer = fed([chunk("a"), chunk("b")])
    assert (answer.text(), answer.report()) == ("ab", None)


def test_a_summary_without_tokens_has_none() -> None:
    read = fed([chunk("a"), chunk("", SUMMARY)]).report()
    assert read == EntropyReport.model_validate(SUMMARY)
    assert read.tokens is None


def test_an_answer_without_tokens_has_a_report() -> None:
    read = fed([chunk("", {**SUMMARY, "num_tokens": 0, "entropy_mean": None})]).report()
    assert read is not None
    assert (read.num_tokens, read.law) == (0, "hapo")


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 10)), min_size=1, max_size=30))
def test_choices_never_mix(pairs: list[tuple[int, float]]) -> None:
    events = [chunk(f"{h} ", tokens(h), index) for index, h in pairs]
    ends = [chunk("", {**SUMMARY, "entropy_max": float(i)}, i) for i in range(3)]
    answer = fed(events + ends)
    for index in range(3):
        expected = [h for i, h in pairs if i == index]
        read = answer.report(index)
        assert read is not None
        assert [t.entropy for t in read.tokens or ()] == expected
        assert answer.text(index) == "".join(f"{h} " for h in expected)
        assert read.entropy_max == index


def test_completions_stream_like_chat() -> None:
    answer = EntropyStream()
    for text, entropy in (("a", tokens(1.0)), ("b", tokens(2.0)), ("", SUMMARY)):
        choice = {"index": 0, "text": text, "finish_reason": None, "entropy": entropy}
        answer.feed(Completion.construct(**envelope([choice], "text_completion")))
    read = answer.report()
    assert read is not None
    assert answer.text() == "ab"
    assert read.tokens == (
        Token(entropy=1.0, temperature=1.0),
        Token(entropy=2.0, temperature=1.0),
    )


def ask(**options: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hi"}], **options}


def test_the_sdk_carries_controls_there_and_reports_back(fake: Fake) -> None:
    with openai.OpenAI(base_url=fake.url, api_key="none") as client:
        body = controls(hapo(), trace="tokens")
        with client.chat.completions.create(**ask(stream=True, extra_body=body)) as stream:
            answer = EntropyStream(stream)
            text = "".join(piece.text for piece in answer)
    read = answer.report()
    assert text == "Hello"
    assert fake.requests[0]["entropy"] == body["entropy"]
    assert read is not None
    assert (read.law, len(read.tokens or ())) == ("hapo", 3)


async def test_the_async_client_streams_the_same(fake: Fake) -> None:
    async with openai.AsyncOpenAI(base_url=fake.url, api_key="none") as client:
        stream = await client.chat.completions.create(**ask(stream=True))
        async with stream:
            answer = EntropyStream(stream)
            pieces = [piece async for piece in answer]
            with pytest.raises(TypeError, match="async for"):
                list(answer)
    assert [piece.text for piece in pieces] == ["Hel", "lo"]
    assert answer.report() == fed(HELLO).report()


def test_reports_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        EntropyReport().law = "hapo"  # type: ignore[misc]
    assert issubclass(EntropyReport, BaseModel)


def test_importing_the_clients_stays_light() -> None:
    code = "import clients.entropy, clients.chat, clients.demo, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "clients.entropy" in loaded
    assert not loaded & {"torch", "vllm", "numpy", "server", "probes", "training"}


def test_difficulty_is_asked_for_as_the_server_reads_it() -> None:
    from server.wire.request import Control

    body = controls(difficulty=difficulty("m/probe", shadow=True, effort=True))["entropy"]
    asked = Control.model_validate(body).difficulty
    assert asked is not None
    assert (asked.probe, asked.mode, asked.effort) == ("m/probe", "shadow", True)
    plain = Control.model_validate(controls(difficulty=difficulty())["entropy"]).difficulty
    assert plain is not None
    assert (plain.probe, plain.mode, plain.effort) == (None, "act", False)


def test_the_types_of_a_report_have_every_field_of_the_wire() -> None:
    from clients import entropy as client
    from server.wire import report as wire

    pairs: dict[type[BaseModel], type[BaseModel]] = {
        client.EntropyReport: wire.Report,
        client.Measurements: wire.MeasuredReport,
        client.Token: wire.TokenReport,
        client.DifficultyDecision: wire.DifficultyReport,
        client.AppliedStrategy: wire.StrategyReport,
        client.Steering: wire.SteeringReport,
        client.InquiryStatus: wire.InquiryReport,
        client.AnsweredQuestion: wire.HeardReport,
        client.Confidence: wire.ConfidenceReport,
        client.AbstentionVerdict: wire.AbstentionReport,
        client.Vote: wire.VoteReport,
        client.SemanticEntropy: wire.SemanticReport,
    }
    for ours, sent in pairs.items():
        assert set(ours.model_fields) == set(sent.model_fields), ours


def test_the_helpers_send_every_field_of_the_wire() -> None:
    from probes.laws import LAWS
    from probes.truncations import TRUNCATIONS
    from server.wire.request import (
        Control,
        DifficultyControl,
        InquiryControl,
        PhaseLaws,
        Steer,
        VoteControl,
    )

    laws = [
        fixed(1.0),
        hapo(statistics="a"),
        edt(),
        dynatemp(),
        entropy_target(1.0),
        shuffled([0.5, 1.0], [2, 1]),
    ]
    helped = {str(one["type"]) for one in laws}  # `law` sends the others
    assert {str(one["type"]): set(one) for one in laws} == {
        name: set(model.model_fields) for name, model in LAWS.items() if name in helped
    }
    game = inquiry(
        "t",
        confidence_level=0.9,
        max_turns=3,
        policy="entropy",
        predictor="direct",
        queries="open",
        max_candidates=4,
        tolerance=0.1,
    )
    hard = difficulty(
        "p",
        strategies={"easy": {"temperature": 0.5, "budget": 0.5}},
        labels="worth",
        price=0.1,
    )
    steered = [
        steer("v", 1.0, layers=[1], whole_prompt=True),
        steer("v", relative=1.0),
        steer("v", clamp=(0.0, 1.0)),
    ]
    truncations = [top_n_sigma(2.0), p_less(normalized=True), mirostat()]
    assert {str(one["type"]): set(one) for one in truncations} == {
        name: set(model.model_fields) for name, model in TRUNCATIONS.items()
    }
    for cut in truncations:
        Control.model_validate({"truncation": cut})
    laws_by_phase = by_phase(thinking=edt(), answer=fixed(0.3))
    assert set(laws_by_phase) == set(PhaseLaws.model_fields)
    Control.model_validate(controls(laws_by_phase)["entropy"])
    everything = controls(
        edt(),
        truncation=p_less(),
        difficulty=hard,
        steering=steered,
        inquiry=game,
        confidence=confidence("m/c", window=64),
        abstain=abstain("m/a", 0.1, promise="selective", delta=0.2, text="?", withhold=False),
        semantic=semantic(
            4,
            temperature=0.5,
            top_k=9,
            top_p=0.5,
            answer="json",
            estimator="likelihood",
            reply="largest",
        ),
        vote=vote(4, answer="json", weight="tail", stop="none", percentile=10, warmup=2, window=9),
        profile="p",
        trace="none",
    )["entropy"]
    assert isinstance(everything, dict)
    assert set(everything) == set(Control.model_fields)
    assert set(hard) == set(DifficultyControl.model_fields)
    assert set(everything["vote"]) == set(VoteControl.model_fields)
    assert set(game) == set(InquiryControl.model_fields)
    assert {key for one in steered for key in one} == set(Steer.model_fields)
    InquiryControl.model_validate(game)
    DifficultyControl.model_validate(hard)
    for one in steered:
        Steer.model_validate(one)
