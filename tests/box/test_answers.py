"""The client that people use gets sensible answers from the real engine, and its token counts are the engine's own."""

import json
from typing import Any

import pytest
from live_box import LiveBox

QUESTION = "What is the capital of France?"
MESSAGES = [{"role": "user", "content": QUESTION}]


def prompt_tokens(box: LiveBox, **prompt: object) -> int:
    """How many tokens the engine's own tokenizer makes of it."""
    return json.loads(box.ask_engine("POST", "/tokenize", {"model": box.model, **prompt}))["count"]


def test_the_openai_client_lists_the_model(box: LiveBox):
    with box.openai() as client:
        assert [model.id for model in client.models.list()] == [box.model, f"{box.model}:code"]
        assert client.models.retrieve(box.model).id == box.model


def test_chat_knows_the_capital_and_counts_the_engines_tokens(box: LiveBox):
    before = box.metric("vllm:generation_tokens_total")
    with box.openai() as client:
        answer = client.chat.completions.create(model=box.model, messages=MESSAGES, temperature=0, max_tokens=32)
    assert "Paris" in answer.choices[0].message.content
    assert answer.usage.prompt_tokens == prompt_tokens(box, messages=MESSAGES)
    assert answer.usage.completion_tokens == box.metric("vllm:generation_tokens_total") - before
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens


def test_a_streamed_chat_is_the_same_text_in_many_pieces(box: LiveBox):
    options = {"model": box.model, "messages": MESSAGES, "temperature": 0, "max_tokens": 32}
    with box.openai() as client:
        whole = client.chat.completions.create(**options)
        chunks = list(client.chat.completions.create(**options, stream=True, stream_options={"include_usage": True}))
    pieces = [chunk.choices[0].delta.content for chunk in chunks if chunk.choices and chunk.choices[0].delta.content]
    assert len(pieces) > 3
    assert "".join(pieces) == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert chunks[-1].usage.prompt_tokens == whole.usage.prompt_tokens
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == whole.choices[0].finish_reason


SAMPLING = [
    {"logprobs": True, "top_logprobs": 3},
    {"prompt_logprobs": 2},
    {"temperature": 0.8, "top_p": 0.9, "seed": 7},
    {"temperature": 0.8, "top_k": 20, "min_p": 0.05},
    {"frequency_penalty": 0.5, "presence_penalty": 0.5, "repetition_penalty": 1.1},
    {"n": 2, "temperature": 1.0},
    {"logit_bias": {"5": 1.0}, "stop": ["zzz"]},
    {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {"type": "object"}}}},
]


@pytest.mark.parametrize("options", SAMPLING, ids=lambda options: ",".join(options))
def test_each_way_of_sampling_is_answered_and_the_engine_lives(box: LiveBox, options: dict[str, Any]):
    before = box.main_pid("infbox-vllm")
    answer = box.chat(QUESTION, max_tokens=8, **options)
    assert answer["choices"][0]["message"]["content"]
    assert (answer["choices"][0]["logprobs"] is not None) == ("logprobs" in options)
    assert box.main_pid("infbox-vllm") == before
    assert box.chat(QUESTION)["choices"]


def test_completions_continue_a_text(box: LiveBox):
    prompt = "Monday, Tuesday, Wednesday, Thursday,"
    with box.openai() as client:
        answer = client.completions.create(model=box.model, prompt=prompt, temperature=0, max_tokens=8)
        streamed = client.completions.create(model=box.model, prompt=prompt, temperature=0, max_tokens=8, stream=True)
        assert "".join(chunk.choices[0].text for chunk in streamed) == answer.choices[0].text
    assert "Friday" in answer.choices[0].text
    assert answer.usage.prompt_tokens == prompt_tokens(box, prompt=prompt)
    assert answer.usage.completion_tokens == 8


def test_an_answer_of_exactly_the_tokens_asked_for_says_that_it_was_cut_short(box: LiveBox):
    with box.openai() as client:
        answer = client.chat.completions.create(
            model=box.model, messages=MESSAGES, temperature=0, max_tokens=5, extra_body={"ignore_eos": True}
        )
    assert (answer.usage.completion_tokens, answer.choices[0].finish_reason) == (5, "length")
