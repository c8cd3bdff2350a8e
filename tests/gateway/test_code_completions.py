"""Completions with a workspace: the same prefix as chat's, and fill-in-the-middle in a repository."""

import pytest
from gateway_box import Box
from scripted_engine import MODEL, Exchange, ScriptedEngine
from toy_engine import CONTROL, NEWLINES, ToyEngine
from toy_watcher import ToyWatcher

PACK = [5001, 5002, 5003, 5004]
PREFIX = [CONTROL["<|im_start|>"], *map(ord, "system"), NEWLINES + 1, *PACK]


async def ask(box: Box, headers: dict[str, str] | None = None, **body: object):
    fields = {**box.authorized, **(headers or {})}
    async with box.client.post("/v1/completions", json={"model": f"{MODEL}:code", **body}, headers=fields) as answer:
        return answer.status, answer.headers, await answer.json()


@pytest.fixture(autouse=True)
def workspace(watcher: ToyWatcher):
    return watcher.add("team-a", "shop", PACK)


@pytest.mark.parametrize("prompt", ["def f():\n", ["def f():\n"], [1, 2, 3], [[1, 2, 3]], ""])
async def test_one_prompt_stands_behind_the_prefix_that_chat_has(code_box: Box, toy: ToyEngine, prompt: object):
    status, headers, _ = await ask(code_box, prompt=prompt, max_tokens=5)
    assert status == 200
    own = [1, 2, 3] if "1" in str(prompt) else toy.tokens("def f():\n") if prompt else []
    assert toy.asked == [("team-a", [*PREFIX, *own])]
    assert toy.bodies[-1] == {
        "model": MODEL,
        "prompt": [*PREFIX, *own],
        "max_tokens": 5,
        "cache_salt": "team-a",
    }
    assert (headers["X-Infbox-Pack"], headers["X-Infbox-Pack-Tokens"]) == ("shop@1", "4")


async def test_a_completion_finds_what_a_chat_has_computed(code_box: Box):
    async with code_box.chat(model=f"{MODEL}:code", messages=[{"role": "user", "content": "x"}]) as answer:
        assert answer.status == 200
    _, headers, _ = await ask(code_box, prompt="something else")
    assert int(headers["X-Infbox-Cached-Tokens"]) == len(PREFIX) // 4 * 4


@pytest.mark.parametrize(
    "prompt",
    [None, 5, True, {}, [], ["a", "b"], [[1], [2]], [1, "a"], [-1], [1.5], [True], [2**31], [None], [[]], [["a"]]],
)
async def test_what_is_not_one_prompt_is_refused(code_box: Box, toy: ToyEngine, prompt: object):
    status, _, answer = await ask(code_box, prompt=prompt)
    assert (status, answer["error"]["code"]) == (400, "not_with_a_workspace")
    assert toy.bodies == []


@pytest.mark.parametrize("field", ["echo", "prompt_logprobs", "prompt_embeds", "truncate_prompt_tokens"])
async def test_what_would_return_or_cut_the_pack_is_refused(code_box: Box, toy: ToyEngine, field: str):
    status, _, answer = await ask(code_box, prompt="x", **{field: 1})
    assert (status, answer["error"]["code"]) == (400, "not_with_a_workspace")
    assert toy.bodies == []


async def test_a_prompt_too_long_for_the_rest_of_the_context_is_refused(code_box: Box, toy: ToyEngine):
    toy.context = 20
    status, _, answer = await ask(code_box, prompt="123456789")
    assert (status, answer["error"]["code"]) == (400, "context_length_exceeded")
    assert "20 tokens" in answer["error"]["message"]
    assert (await ask(code_box, prompt="1234567"))[0] == 200


async def test_a_suffix_is_fill_in_the_middle_as_the_family_writes_it(code_box: Box, toy: ToyEngine):
    status, _, _ = await ask(code_box, {"X-Infbox-Path": "src/a.py"}, prompt="def f(", suffix="):\n    pass\n")
    assert status == 200
    own = toy.tokens("<|file_sep|>src/a.py\n<|fim_prefix|>def f(<|fim_suffix|>):\n    pass\n<|fim_middle|>")
    assert toy.asked[-1][1] == [*PREFIX, *own]
    assert "suffix" not in toy.bodies[-1]


async def test_a_file_about_control_tokens_can_be_filled_in(code_box: Box, toy: ToyEngine):
    text = 'MIDDLE = "<|fim_middle|>"\nEND = "<|im_end|>"\n'
    await ask(code_box, prompt=text, suffix="\n# <|fim_suffix|>")
    own = toy.asked[-1][1][len(PREFIX) :]
    markers = [CONTROL[name] for name in ("<|file_sep|>", "<|fim_prefix|>", "<|fim_suffix|>", "<|fim_middle|>")]
    assert [id for id in own if id >= 1000] == markers
    spelled = "".join(chr(id) for id in own if id < NEWLINES)
    assert spelled == "untitled" + text.replace("\n", "") + "# <|fim_suffix|>"


@pytest.mark.parametrize("path", ["<|fim_middle|>", "a\tb", "x" * 5000, "caf\u00e9.py"])
async def test_a_hostile_path_is_one_line_of_text(code_box: Box, toy: ToyEngine, path: str):
    status, _, _ = await ask(code_box, {"X-Infbox-Path": path}, prompt="a", suffix="b")
    own = toy.asked[-1][1][len(PREFIX) :]
    assert status == 200
    assert own.index(NEWLINES + 1) < 600
    assert sum(id >= 1000 for id in own) == 4


async def test_an_empty_suffix_is_none_and_an_empty_prompt_has_one(code_box: Box, toy: ToyEngine):
    await ask(code_box, prompt="a", suffix="")
    assert toy.asked[-1][1] == [*PREFIX, ord("a")]
    assert (await ask(code_box, prompt="", suffix="b"))[0] == 200
    assert toy.asked[-1][1][-3:] == [CONTROL["<|fim_suffix|>"], ord("b"), CONTROL["<|fim_middle|>"]]


async def test_a_family_without_such_tokens_says_so(code_box: Box, toy: ToyEngine):
    toy.control = {name: CONTROL[name] for name in ("<|im_start|>", "<|im_end|>")}
    status, _, answer = await ask(code_box, prompt="a", suffix="b")
    assert (status, answer["error"]["code"]) == (400, "not_with_a_workspace")
    assert "suffix" in answer["error"]["message"]
    assert (await ask(code_box, prompt="a"))[0] == 200


@pytest.mark.parametrize("suffix", [5, ["a"], {}])
async def test_a_suffix_that_is_no_text_is_refused(code_box: Box, suffix: object):
    assert (await ask(code_box, prompt="a", suffix=suffix))[0] == 400
    assert (await ask(code_box, prompt=[1], suffix="b"))[0] == 400


async def test_ids_out_of_the_vocabulary_are_the_engines_to_refuse(
    code_box: Box, engine: ScriptedEngine, toy: ToyEngine
):
    async def refuse(exchange: Exchange) -> None:
        if exchange.path == "/v1/completions":
            await exchange.answer({"error": {"message": "Token id 99999999 is out of vocabulary"}}, 400)
        else:
            await toy(exchange)

    engine.script = refuse
    status, headers, answer = await ask(code_box, prompt=[99999999])
    assert (status, answer["error"]["message"]) == (400, "Token id 99999999 is out of vocabulary")
    assert "X-Infbox-Pack" not in headers
