"""A new base keeps the longest front part that pays, and puts what changed at the end."""

import pytest

from infbox.pack.layout import Pack, Writer
from infbox.pack.overlay import Packer
from infbox.pack.rebase import Rules, build
from infbox.pack.tokens import PackTokenizer, common_prefix

BODY = "".join(f"line {number}\n" for number in range(100))
FILES = {f"{number}.py": f"# {number}\n{BODY}" for number in range(20)}
RULES = Rules(overlay_minimum_tokens=400)


@pytest.fixture
def packer(qwen: PackTokenizer) -> Packer:
    files = [(path, text.encode()) for path, text in FILES.items()]
    return Packer(qwen, build(Writer(qwen), "repo", files, RULES), RULES)


def order(pack: Pack) -> list[str]:
    return [segment.path for segment in pack.base]


def edit(packer: Packer, path: str, count: int = 1) -> None:
    text = FILES[path]
    for number in range(count):
        text = text.replace(f"line {number * 3}\n", f"LINE {number}\n")
    packer.save(path, text.encode())
    packer.seal()


def test_an_overlay_within_its_share_calls_for_no_rebase(packer: Packer) -> None:
    assert not packer.needs_rebase
    edit(packer, "3.py")
    assert not packer.needs_rebase


def test_an_overlay_over_its_share_calls_for_one_which_ends_it(packer: Packer) -> None:
    number = 0
    while not packer.needs_rebase:
        packer.save("new.py", f"{BODY}{number}\n".encode() * (number + 1))
        packer.seal()
        number += 1
    packer.rebase()
    assert not packer.needs_rebase


def test_what_changed_moves_to_the_end_and_the_rest_keeps_its_order(packer: Packer) -> None:
    edit(packer, "15.py", 20)
    edit(packer, "12.py", 20)
    whole = packer.rebase(whole=True)
    unchanged = [path for path in FILES if path not in ("12.py", "15.py")]
    assert order(whole) == [*unchanged, "15.py", "12.py"]
    assert not whole.overlay


def test_a_small_change_far_in_front_is_carried_as_a_correction(packer: Packer) -> None:
    before = packer.pack
    edit(packer, "0.py")
    edit(packer, "19.py", 30)
    after = packer.rebase()
    assert order(after) == list(FILES)
    assert [segment.path for segment in after.overlay if segment.kind == "changed"] == ["0.py"]
    assert common_prefix(before.ids, after.ids) > 0.9 * before.base_tokens


def test_many_saves_of_a_file_are_carried_as_one(packer: Packer) -> None:
    for count in range(1, 8):
        edit(packer, "0.py", count)
    assert len(packer.pack.overlay) == 8
    sealed = packer.pack
    after = packer.rebase()
    assert len(after.overlay) <= 2
    assert after.base_digest != sealed.base_digest


def test_a_rebase_of_nothing_keeps_every_token(packer: Packer) -> None:
    assert (
        packer.rebase().digest
        == build(packer.writer, "repo", [(path, text.encode()) for path, text in FILES.items()], RULES).digest
    )
