"""Which arms `benchmarks.overhead` measures, and what each is compared with."""

import pytest
import typer

from benchmarks.arms import PEER_TARGET, STOCK, arms
from benchmarks.overhead.__main__ import choose
from benchmarks.overhead.report import Section, estimate, estimate_peer, page
from probes.truncations import TRUNCATIONS
from server.wire.request import Control

EVERYTHING = arms(hapo=True)


def test_every_truncation_has_an_arm_that_the_wire_accepts_and_is_compared_with_hapo() -> None:
    by_name = {arm.name: arm for arm in EVERYTHING}
    assert set(TRUNCATIONS) <= set(by_name)
    for arm in EVERYTHING:
        Control.model_validate(arm.control or {})
        assert arm.peer is None or arm.peer in by_name
    assert {by_name[name].peer for name in TRUNCATIONS} == {"hapo"}


def test_both_processes_of_stock_are_measured_beside_the_chosen_arms() -> None:
    assert choose(EVERYTHING, []) == EVERYTHING
    assert [arm.name for arm in choose(EVERYTHING, ["p_less", "hapo"])] == [
        STOCK.name,
        "stock vLLM, second process",
        "hapo",
        "p_less",
    ]
    with pytest.raises(typer.BadParameter, match="unknown: no such arm; known: stock vLLM"):
        choose(EVERYTHING, ["no such arm"])


def test_the_page_says_what_a_truncation_costs_beside_its_peer() -> None:
    """The machine slows down by half from round to round; the ratio of a round stays."""
    stock = {STOCK.name: [100.0, 50.0], "stock vLLM, second process": [100.0, 50.0]}
    samples = {**stock, "hapo": [90.0, 45.0], "p_less": [81.0, 40.5]}
    chosen = choose(EVERYTHING, ["hapo", "p_less"])
    peer = next(arm for arm in chosen if arm.peer)
    estimates = [estimate(arm, samples) for arm in chosen]
    section = Section("compiled", 16, [0], {}, estimates, [estimate_peer(peer, samples)])
    facts = {"model": "m", "max_tokens": 64, "rounds": 2, "command": "c", "date": "d", "cpu": "c"}
    facts |= {"cores": 2, "load_before": 0.0, "versions": {"python": "3"}}
    row = page(facts, [section], "overhead", "")[-1]
    assert row.startswith("| p_less over hapo | 60.8 | 0.900 | 0.900 to 0.900 |")
    assert row.endswith(f"| >= {PEER_TARGET} | fail |")


def test_an_arm_that_samples_sends_fewer_requests_for_as_many_answers() -> None:
    vote = next(arm for arm in EVERYTHING if arm.name == "vote of 4")
    assert [vote.fits(batch) for batch in (1, 2, 4, 16)] == [False, False, True, True]
    bodies = vote.bodies("m", 16, 8)
    assert len(bodies) == 4
    assert bodies[0]["entropy"]["vote"] == {"n": 4}
