"""An image is named by the digest of its content, or refused with the command that prints it."""

import pytest

from infbox.errors import ImageError
from infbox.host import check_image
from infbox.image.reference import Reference

DIGEST = f"sha256:{'0' * 64}"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (f"docker.io/vllm/vllm-openai@{DIGEST}", "docker.io/vllm/vllm-openai"),
        (f"docker.io/lmcache/vllm-openai:v0.3@{DIGEST}", "docker.io/lmcache/vllm-openai"),
        (f"registry.example:5000/team/engine:1@{DIGEST}", "registry.example:5000/team/engine"),
        (f"localhost/engine@{DIGEST}", "localhost/engine"),
    ],
)
def test_a_reference_is_a_name_and_a_digest_whatever_its_tag(text: str, name: str) -> None:
    assert str(Reference.parse(text)) == f"{name}@{DIGEST}"


@pytest.mark.parametrize("text", ["docker.io/vllm/vllm-openai:latest", "docker.io/vllm/vllm-openai", ""])
def test_one_without_a_digest_is_refused_with_the_command_that_prints_it(text: str) -> None:
    with pytest.raises(ImageError, match=r"has no digest|is not set") as caught:
        Reference.parse(text)
    assert "skopeo inspect --format '{{.Digest}}' docker://" in caught.value.hint
    assert "@sha256:" in caught.value.hint


@pytest.mark.parametrize("digest", ["sha256:1234", f"md5:{'0' * 32}", f"SHA256:{'0' * 64}", ""])
def test_half_a_digest_is_none(digest: str) -> None:
    with pytest.raises(ImageError, match="no digest"):
        Reference.parse(f"docker.io/vllm/vllm-openai@{digest}")


@pytest.mark.parametrize("name", ["vllm/vllm-openai", "vllm-openai", "docker.io/a b", "docker.io/-x", "--privileged"])
def test_a_name_says_its_registry_and_is_no_option(name: str) -> None:
    with pytest.raises(ImageError, match="where it comes from"):
        Reference.parse(f"{name}@{DIGEST}")


def test_a_host_is_refused_before_anything_is_done() -> None:
    assert check_image({"vllm_runtime": "venv", "vllm_image": ""}) == []
    assert check_image({"vllm_runtime": "container", "vllm_image": f"docker.io/a/b@{DIGEST}"}) == []
    for image in ("", "docker.io/vllm/vllm-openai:latest"):
        (problem,) = check_image({"vllm_runtime": "container", "vllm_image": image})
        assert "vllm_image" in problem.message
        assert "skopeo inspect" in problem.hint
