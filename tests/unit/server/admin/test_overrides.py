"""Changes of the operator: shared by all API servers, bounded, whole or not at all."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from server.admin.overrides import MAX_PROFILES, NOTHING, SWITCHES, OverrideFile, Overrides
from server.profiles import Profiles
from server.wire.report import FALLBACKS
from server.wire.request import Control


def with_edt(name: str, old: Overrides) -> Overrides:
    return old.with_profile(name, EDT)


EDT = Control.model_validate({"temperature": {"type": "edt"}})


def test_every_switch_has_its_fallback() -> None:
    assert {f"{name}_skipped" for name in SWITCHES} <= set(FALLBACKS)


def test_a_change_is_seen_by_every_api_server_at_once(tmp_path: Path) -> None:
    mine, theirs = OverrideFile(tmp_path), OverrideFile(tmp_path)
    assert theirs.current() == NOTHING
    mine.change(lambda old: old.switched("steering", on=False))
    assert theirs.current().off == ("steering",)
    theirs.change(lambda old: old.with_profile("mine", EDT))
    assert mine.current() == Overrides(profiles={"mine": EDT}, off=("steering",))
    mine.change(lambda old: old.switched("steering", on=True).without_profile("mine"))
    assert theirs.current() == NOTHING


def test_changes_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    files = [OverrideFile(tmp_path) for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        for number in range(40):
            pool.submit(files[number % 4].change, partial(with_edt, f"p{number}"))
    assert set(files[0].current().profiles) == {f"p{number}" for number in range(40)}


def test_a_refused_change_changes_nothing(tmp_path: Path) -> None:
    file = OverrideFile(tmp_path)
    for name in ("", "a@b", "a" * 101, "new\nline", " x"):
        with pytest.raises(ValueError, match="cannot name a profile"):
            file.change(partial(with_edt, name))
    with pytest.raises(KeyError):
        file.change(lambda old: old.without_profile("nowhere"))
    assert file.current() == NOTHING


def test_the_number_of_profiles_is_bounded() -> None:
    full = Overrides(profiles={str(number): EDT for number in range(MAX_PROFILES)})
    with pytest.raises(ValueError, match="at most"):
        full.with_profile("more", EDT)
    assert full.with_profile("0", Control()).profiles["0"] == Control()


def test_an_uploaded_profile_keeps_which_fields_it_sets(tmp_path: Path) -> None:
    """Only these are overridden by the field of a request."""
    file = OverrideFile(tmp_path)
    file.change(lambda old: old.with_profile("mine", EDT))
    again = OverrideFile(tmp_path).current().profiles["mine"]
    assert again.model_fields_set == {"temperature"}


def test_an_uploaded_profile_hides_one_of_a_file_until_it_is_removed(tmp_path: Path) -> None:
    file = OverrideFile(tmp_path)
    profiles = Profiles(uploaded=lambda: file.current().profiles)
    shipped = dict(profiles)
    name = next(iter(shipped))
    file.change(lambda old: old.with_profile(name, EDT).with_profile("mine", EDT))
    assert (profiles[name], set(profiles)) == (EDT, {*shipped, "mine"})
    profiles.reload()
    assert profiles[name] == EDT
    file.change(lambda old: old.without_profile(name).without_profile("mine"))
    assert dict(profiles) == shipped
