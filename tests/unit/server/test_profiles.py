import logging
from pathlib import Path

import pytest

from server.profiles import ProfileError, Profiles, parse_profiles, warning
from server.wire.request import Control

GOOD = '[calm]\ntemperature = { type = "fixed", temperature = 0.4 }\ntrace = "none"\n'


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD)
    return path


def test_built_in_profiles_parse() -> None:
    assert {"adaptive", "dynamic", "steady"} <= set(Profiles())


def test_profiles_of_a_file_are_added_to_the_built_in_ones(file: Path) -> None:
    profiles = Profiles(file)
    assert set(profiles) == {*Profiles(), "calm"}
    assert profiles["calm"].model_dump(exclude_unset=True) == {
        "temperature": {"type": "fixed", "temperature": 0.4},
        "trace": "none",
    }


def test_a_profile_of_a_file_overrides_a_built_in_one_of_the_same_name(file: Path) -> None:
    file.write_text(GOOD.replace("calm", "adaptive"))
    assert Profiles(file)["adaptive"].trace == "none"
    assert len(Profiles(file)) == len(Profiles())


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[calm", ["mine.toml", "not TOML"]),
        ("calm = 1", ["mine.toml", "`calm`", "[calm]"]),
        ('["a@b"]', ["mine.toml", "`a@b`"]),
        ('["严格"]', ["mine.toml", "`严格`", "ASCII"]),
        ('["é"]', ["mine.toml", "ASCII"]),
        ('[" calm"]', ["mine.toml", "ASCII"]),
        ('[""]', ["mine.toml", "ASCII"]),
        ('["a\\tb"]', ["mine.toml", "ASCII"]),
        ("[calm]\ncolor = 1", ["mine.toml", "`calm.color`", "unknown key"]),
        (
            '[calm]\ntemperature = { type = "hapo", tua = 1 }',
            ["mine.toml", "`calm.temperature.tua`", "unknown key"],
        ),
        (
            '[calm]\ntemperature = { type = "fixed", temperature = 9 }',
            ["mine.toml", "`calm.temperature.temperature`", "less than or equal to 2"],
        ),
        ('[calm]\ntemperature = { type = "warm" }', ["mine.toml", "`calm.temperature`", "'warm'"]),
        ('[calm]\nprofile = "adaptive"', ["mine.toml", "`calm.profile`"]),
        ('[calm]\ntrace = "loud"', ["mine.toml", "`calm.trace`"]),
        ("[fine]\n[calm]\ncolor = 1", ["mine.toml", "`calm.color`"]),
    ],
)
def test_an_error_names_the_file_the_profile_and_the_field(text: str, words: list[str]) -> None:
    with pytest.raises(ProfileError) as caught:
        parse_profiles(text, "mine.toml")
    for word in words:
        assert word in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_name_may_contain_any_character_that_a_header_can() -> None:
    assert {*parse_profiles('["Very calm, v2.1"]\n[x-y_z]', "mine.toml")} == {
        "Very calm, v2.1",
        "x-y_z",
    }


def test_an_error_names_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match=r"nowhere\.toml: cannot be read"):
        Profiles(tmp_path / "nowhere.toml")


def test_an_error_names_a_file_that_is_not_text(file: Path) -> None:
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match=r"mine\.toml: cannot be read"):
        Profiles(file)


def test_a_reload_applies_the_current_file(file: Path) -> None:
    profiles = Profiles(file)
    file.write_text(GOOD.replace("calm", "calmer"))
    profiles.reload()
    assert "calmer" in profiles
    assert "calm" not in profiles


@pytest.mark.parametrize("damage", ["bad", "gone"])
def test_a_reload_of_an_invalid_file_keeps_the_profiles_and_logs_the_reason(
    file: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    profiles = Profiles(file)
    before = dict(profiles)
    if damage == "bad":
        file.write_text("[calm]\ncolor = 1")
    else:
        file.unlink()
    with caplog.at_level(logging.ERROR, logger="vllm.entrostat"):
        profiles.reload()
    assert dict(profiles) == before
    (record,) = caplog.records
    assert "mine.toml" in record.getMessage()
    assert ("calm.color" if damage == "bad" else "cannot be read") in record.getMessage()


@pytest.mark.parametrize(
    ("law", "said"),
    [
        ({"type": "entropy_target", "entropy_target": 1.0, "side": "both"}, "chains of reasoning"),
        ({"type": "entropy_target", "entropy_target": 1.0, "side": "floor"}, "chains of reasoning"),
        ({"type": "dynatemp", "range": 0.5}, None),
        ({"type": "edt"}, "where errors are"),
        ({"type": "hapo", "tau": 0.3}, "word problems"),
        ({"type": "hapo", "tau": 0.05}, None),
        ({"type": "entropy_target", "entropy_target": 1.0}, None),
        ({"type": "fixed", "temperature": 0.3}, None),
        (None, None),
    ],
)
def test_a_law_that_was_measured_to_harm_carries_a_warning(
    law: dict[str, object] | None, said: str | None
) -> None:
    found = warning(Control.model_validate({"temperature": law}))
    assert found is None if said is None else said in str(found)


def test_of_the_included_profiles_one_carries_a_warning() -> None:
    warned = [name for name, control in Profiles().items() if warning(control)]
    assert warned == ["adaptive"]


def test_the_log_line_on_the_page_is_what_an_invalid_file_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "how-to" / "serve.md").read_text()
    (printed,) = (line for line in page.splitlines() if line.startswith("entrostat: profiles not"))
    path = tmp_path / "profiles.toml"
    path.write_text("[late]\n")
    profiles = Profiles(path)
    path.write_text("[late]\n" + "\n" * 14 + "[late]\n")
    with caplog.at_level(logging.ERROR, "vllm.entrostat"):
        profiles.reload()
    assert caplog.messages == [printed]
