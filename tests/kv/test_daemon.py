"""The daemon's settings, and what it does before LMCache begins."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from infbox.errors import InfboxError
from infbox.kv.daemon import Settings, arguments, context_of, forget_others, usable


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "model.json").write_text("{}")
    return {
        "KV_SOCKET": str(tmp_path / "lmcache.sock"),
        "KV_PORT": "5555",
        "KV_L1_GIB": "1",
        "KV_L2_GIB": "2.5",
        "KV_L2_PATH": str(tmp_path / "kv"),
        "KV_TENANT_GIB": "1",
        "KV_REDIS_SOCKET": "",
        "KV_STATE_DIR": str(tmp_path),
        "KV_CHUNK_TOKENS": "256",
        "KV_CONTEXT": "float32",
        "KV_MODEL_FILE": str(tmp_path / "model.json"),
    }


def test_chunks_of_another_model_format_or_version_are_forgotten(environment: dict[str, str], tmp_path: Path) -> None:
    settings = Settings.read(environment)
    for name in (settings.context, "0123456789abcdef", "somebody's", "0123456789abcdefg"):
        (tmp_path / "kv" / name).mkdir(parents=True)
        (tmp_path / "kv" / name / "a.data").touch()
    forget_others(settings)
    others = {"somebody's", "0123456789abcdefg"}
    assert {each.name for each in (tmp_path / "kv").iterdir()} == {settings.context, *others}
    forget_others(replace(settings, l2_gib=0))
    assert {each.name for each in (tmp_path / "kv").iterdir()} == others


def test_what_chunks_are_good_for_is_the_models_content_and_the_number_format() -> None:
    told = {context_of(b"a", "x"), context_of(b"b", "x"), context_of(b"a", "y"), context_of(b"ax", "")}
    assert len(told) == 4
    assert context_of(b"a", "x") in told


def test_the_daemon_listens_on_loopback_alone_and_has_a_cap_on_disk(environment: dict[str, str]) -> None:
    words = arguments(Settings.read(environment))
    assert words[words.index("--host") + 1] == "127.0.0.1"
    disk = json.loads(words[words.index("--l2-adapter") + 1])
    assert disk["adapter_params"]["capacity_gib"] == 2.5
    assert disk["adapter_params"]["tenant_gib"] == 1
    assert "--l2-adapter" not in arguments(Settings.read({**environment, "KV_L2_GIB": "0"}))


def test_cake_is_in_the_daemon_where_it_was_tested_with_it(
    environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("infbox.kv.daemon.why_not", lambda: "lmcache is 9.9.9")
    assert "--server-module" not in arguments(Settings.read(environment))
    monkeypatch.setattr("infbox.kv.daemon.why_not", lambda: "")
    words = arguments(Settings.read(environment))
    assert json.loads(words[words.index("--server-module") + 1]) == {"module_path": "infbox.cake.lift"}


def test_no_word_holds_the_password_of_the_store(environment: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "password").write_text("geheim")
    redis = {
        "PASSWORD_FILE": str(tmp_path / "password"),
        "SOCKET": "/run/r.sock",
        "DATABASE": "3",
        "USERNAME": "kv",
        "TLS_NAME": "redis.example",
        "CA_FILE": "",
    }
    named = {f"KV_REDIS_{name}": value for name, value in redis.items()}
    words = arguments(Settings.read({**environment, **named}))
    disk, store = (json.loads(words[place + 1]) for place, word in enumerate(words) if word == "--l2-adapter")
    assert (disk["class_name"], store["class_name"]) == ("Disk", "Remote")
    assert store["adapter_params"]["password_file"] == str(tmp_path / "password")
    assert "geheim" not in " ".join(words)


def test_without_a_disk_that_can_be_had_there_is_ram(environment: dict[str, str], tmp_path: Path, capsys) -> None:
    settings = Settings.read(environment)
    assert usable(settings) == settings
    blocked = replace(settings, context="other")
    (tmp_path / "kv" / "other").write_text("a file where a folder should be")
    assert usable(blocked).l2_gib == 0
    (tmp_path / "key").write_bytes(b"short")
    assert usable(settings).l2_gib == 0
    said = capsys.readouterr().out
    assert "no disk until the next start" in said
    assert "RAM alone" in said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"KV_L1_GIB": "0"}, "KV_L1_GIB is 0, and must be 0.1 or more"),
        ({"KV_L2_GIB": "-1"}, "KV_L2_GIB is -1"),
        ({"KV_L1_GIB": "nan"}, "KV_L1_GIB is nan"),
        ({"KV_PORT": "http"}, "invalid literal"),
        ({"KV_MODEL_FILE": "/nowhere/model.json"}, "/nowhere/model.json cannot be read"),
    ],
)
def test_a_wrong_environment_is_named(environment: dict[str, str], change: dict[str, str], said: str) -> None:
    with pytest.raises(InfboxError, match=said):
        Settings.read({**environment, **change})


def test_a_missing_variable_is_named(environment: dict[str, str]) -> None:
    del environment["KV_PORT"]
    with pytest.raises(InfboxError, match="KV_PORT is not set"):
        Settings.read(environment)
