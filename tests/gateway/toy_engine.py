"""An engine with a tokenizer that can be computed in one's head, and a prefix cache.

ChatML with the letters as ids: `<|im_start|>` and its kin are one id each, a run of newlines is one, any other letter
is its code point. So a header's newline merges with a system text that begins with one, as Qwen's does.
"""

import asyncio
import json
import re
from collections.abc import Sequence
from typing import Any

from scripted_engine import MODEL, Exchange, event

CONTROL = {
    name: 1000 + number
    for number, name in enumerate(
        [
            "<|im_start|>",
            "<|im_end|>",
            "<|repo_name|>",
            "<|file_sep|>",
            "<|fim_prefix|>",
            "<|fim_suffix|>",
            "<|fim_middle|>",
        ]
    )
}
NEWLINES = 900
BLOCK = 4


class ToyEngine:
    """The script of a `ScriptedEngine`; `asked` holds the ids that were computed, each with its salt."""

    def __init__(
        self, *, context: int = 10_000, default_system: str | None = None, control: Sequence[str] | None = None
    ):
        self.context = context
        self.default_system = default_system
        self.control = {name: CONTROL[name] for name in (CONTROL if control is None else control)}
        self.takes_system = True
        self.priorities = True
        self.asked: list[tuple[str, list[int]]] = []
        self.bodies: list[dict[str, Any]] = []
        self.blocks: set[tuple[str, tuple[int, ...]]] = set()
        self.gate = asyncio.Event()  # a prompt is computed only while it is set
        self.gate.set()
        self.budget = 0  # so many blocks are computed without it

    def tokens(self, text: str) -> list[int]:
        pattern = "|".join([*map(re.escape, self.control), r"\n+", r"(?s:.)"])
        return [
            self.control.get(piece) or (NEWLINES + len(piece) if piece[0] == "\n" else ord(piece))
            for piece in re.findall(pattern, text)
        ]

    def template(self, body: dict[str, Any]) -> str:
        messages = list(body["messages"])
        tools = json.dumps(body["tools"]) if body.get("tools") else ""
        if messages[0]["role"] != "system" and self.default_system is not None:
            messages.insert(0, {"role": "system", "content": self.default_system})
        text = ""
        for message in messages:
            content = message["content"]
            if isinstance(content, list):
                content = "".join(part["text"] for part in content)
            if message["role"] == "system":
                content += tools
            text += f"<|im_start|>{message['role']}\n{content}<|im_end|>\n"
        return text + "<|im_start|>assistant\n"

    def chat_tokens(self, *messages: dict[str, Any], **more: Any) -> list[int]:
        return self.tokens(self.template({"messages": messages, **more}))

    async def __call__(self, exchange: Exchange) -> None:
        body = exchange.json if exchange.body else {}
        if exchange.path == "/v1/models":
            card = {"id": MODEL, "object": "model", "created": 1, "owned_by": "v", "max_model_len": self.context}
            await exchange.answer({"object": "list", "data": [card]})
        elif exchange.path == "/metrics":
            text = f'vllm:cache_config_info{{a="b",block_size="{BLOCK}",engine="0"}} 1.0\n'.encode()
            await exchange.head(content_type="text/plain", content_length=str(len(text)))
            await exchange.raw(text)
        elif exchange.path == "/v1/chat/completions/render":
            await self.render(exchange, body)
        elif exchange.path == "/v1/completions/render":
            texts = body["prompt"] if isinstance(body["prompt"], list) else [body["prompt"]]
            assert all(texts)
            assert body["add_special_tokens"] is False
            await exchange.answer([{"token_ids": self.tokens(text)} for text in texts])
        elif exchange.path == "/tokenize":
            ids = self.chat_tokens(*body["messages"])
            names = {id: name for name, id in self.control.items()}
            await exchange.answer({"tokens": ids, "token_strs": [names.get(id, chr(id)) for id in ids]})
        else:
            self.bodies.append(body)
            await self.generate(exchange, body)

    async def render(self, exchange: Exchange, body: dict[str, Any]) -> None:
        if body["model"] != MODEL:
            await exchange.answer({"error": {"message": f"The model `{body['model']}` does not exist."}}, 404)
        elif not isinstance(body.get("messages"), list) or not body["messages"]:
            await exchange.answer({"error": {"message": "messages: Field required"}}, 400)
        elif not self.takes_system and body["messages"][0]["role"] == "system":
            await exchange.answer({"error": {"message": "System role not supported"}}, 400)
        else:
            await exchange.answer({"token_ids": self.tokens(self.template(body))})

    async def generate(self, exchange: Exchange, body: dict[str, Any]) -> None:
        if body.get("priority") and not self.priorities:
            await exchange.answer(
                {"error": {"message": "Got priority 10 but Priority scheduling is not enabled."}}, 400
            )
            return
        chat = exchange.path == "/v1/chat/completions"
        prompt = (body.get("kv_transfer_params") or {}).get("prompt_token_ids") if chat else body["prompt"]
        if prompt is None:
            prompt = self.tokens(self.template(body))
        elif isinstance(prompt, str):
            prompt = self.tokens(prompt)
        if len(prompt) >= self.context:
            await exchange.answer({"error": {"message": "too long"}}, 400)
            return
        salt = body.get("cache_salt", "")
        cached = await self.compute(exchange, salt, prompt)
        self.asked.append((salt, prompt))
        usage = {
            "prompt_tokens": len(prompt),
            "completion_tokens": 1,
            "total_tokens": len(prompt) + 1,
            "prompt_tokens_details": {"cached_tokens": cached},
        }
        if not body.get("stream"):
            choice = {"message": {"role": "assistant", "content": "Paris"}} if chat else {"text": "!"}
            await exchange.answer({"id": "1", "model": body["model"], "choices": [choice], "usage": usage})
            return
        await exchange.events()
        for text in ("Par", "is"):
            await exchange.chunk(event(text))
        if (body.get("stream_options") or {}).get("include_usage"):
            last = json.dumps({"id": "1", "choices": [], "usage": usage}, separators=(",", ":"))
            await exchange.chunk(f"data: {last}\n\n".encode())
        await exchange.chunk(b"data: [DONE]\n\n")
        await exchange.end()

    async def compute(self, exchange: Exchange, salt: str, prompt: list[int]) -> int:
        """How many tokens were cached. Blocks get into the cache one by one while the gate is open."""
        blocks = [(salt, tuple(prompt[:end])) for end in range(BLOCK, len(prompt) + 1, BLOCK)]
        cached = next((i for i, block in enumerate(blocks) if block not in self.blocks), len(blocks))
        for block in blocks[cached:]:
            if self.budget > 0:
                self.budget -= 1
                self.blocks.add(block)
                continue
            gate = asyncio.ensure_future(self.gate.wait())
            gone = asyncio.ensure_future(exchange.vanished.wait())
            await asyncio.wait((gate, gone), return_when=asyncio.FIRST_COMPLETED)
            gate.cancel()
            gone.cancel()
            if exchange.vanished.is_set():
                raise ConnectionError
            self.blocks.add(block)
        return min(cached, (len(prompt) - 1) // BLOCK) * BLOCK  # one token must be left to compute
