"""A request's token ids with a pack in them, and the body that carries them to the engine.

The engine renders the client's messages and tools as it would without us, and the pack's ids go behind the header of
the system turn. Where the header's last letters have become one token with the client's text (Qwen's newline does, with
a system text that begins with one), or where the prompt has no system turn of its own, it renders them once more with a
control token where the pack has to stand. The client's own messages are what they were, token by token.

The ids of a pack are joined as bytes that were serialised once: a hundred thousand of them cost no more than a copy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import cast

from infbox.gateway.bodies import GATEWAY_FIELDS
from infbox.gateway.code.passing import EngineCalls
from infbox.gateway.code.template import Template
from infbox.gateway.refusal import Refusal

# With each of these the engine would leave out the ids it is given, cut them, or send them back to the client.
NOT_WITH_A_PACK = ("echo", "prompt_logprobs", "truncate_prompt_tokens", "prompt_embeds")
TEXT_PARTS = ("text", "input_text", "output_text", "refusal", "thinking")
MEDIA_WORDS = ("image", "audio", "video", "embeds", "file")


@dataclass(frozen=True)
class Place:
    """A request's own ids: those before the pack, and those behind it."""

    before: Sequence[int]
    behind: Sequence[int]

    def join(self, fragment: bytes) -> bytes:
        """All ids, as they stand between the brackets of a JSON list; `fragment` is the pack's."""
        parts = (serialised(self.before), fragment, serialised(self.behind))
        return b",".join(part for part in parts if part)


def serialised(ids: Sequence[int]) -> bytes:
    """Ids as they stand between the brackets of a JSON list."""
    return ",".join(map(str, ids)).encode()


def with_field(body: bytes, field: bytes) -> bytes:
    """A JSON object with one more field, serialised by itself."""
    return body[:-1] + b"," + field + b"}"


def refuse_fields(request: dict[str, object]) -> None:
    """Refuse what cannot be had together with a workspace.

    Raises:
        Refusal: 400 naming the field.
    """
    for name in NOT_WITH_A_PACK:
        value = request.get(name)
        if value is not None and value is not False:
            raise impossible(f"'{name}' cannot be had together with a workspace.")


async def place_in_chat(calls: EngineCalls, template: Template, request: dict[str, object]) -> Place:
    """A chat request's ids, and where among them the pack stands.

    Raises:
        EngineRefusal: the engine does not take the request, with or without a pack.
        Refusal: 400 for what cannot be had together with a workspace; or the engine is down.
    """
    refuse_fields(request)
    if _not_text(request.get("messages")):
        raise impossible("Images, audio and files cannot be had together with a workspace: the messages must be text.")
    asked = {name: value for name, value in request.items() if name not in GATEWAY_FIELDS}
    asked.pop("stream_options", None)
    asked["stream"] = False
    ids = await calls.render(asked)
    header = list(template.header)
    if ids[: len(header)] == header:
        return Place(header, ids[len(header) :])
    if template.stand_in is not None:
        ids = await calls.render({**asked, "messages": _with_stand_in(request, template)})
        if ids[: len(header) + 1] == [*header, template.stand_in.id]:
            return Place(header, ids[len(header) + 1 :])
    raise impossible("The model's template leaves no place for a workspace in front of these messages.")


def check_length(template: Template, place: Place, pack_tokens: int) -> None:
    """Refuse what does not fit.

    Raises:
        Refusal: 400 with the context, the pack's tokens and the request's.
    """
    own = len(place.before) + len(place.behind)
    if template.context_tokens and own + pack_tokens >= template.context_tokens:
        raise Refusal(
            400,
            "context_length_exceeded",
            f"The model's context is {template.context_tokens} tokens. The workspace takes {pack_tokens} of them and "
            f"the request {own}, which leaves none for an answer. Shorten the request, or ask without ':code'.",
        )


def impossible(message: str) -> Refusal:
    """Something that cannot be had together with a workspace."""
    return Refusal(400, "not_with_a_workspace", message)


def _not_text(messages: object) -> bool:
    """Whether any part of the messages is not text: the engine then renders the messages and leaves the ids out."""
    if not isinstance(messages, list):
        return False
    for message in cast("list[object]", messages):
        content = cast("dict[str, object]", message).get("content") if isinstance(message, dict) else None
        for part in cast("list[object]", content) if isinstance(content, list) else ():
            if isinstance(part, dict) and _is_media(cast("dict[str, object]", part)):
                return True
    return False


def _is_media(part: dict[str, object]) -> bool:
    return part.get("type", "text") not in TEXT_PARTS or any(word in name for name in part for word in MEDIA_WORDS)


def _with_stand_in(request: dict[str, object], template: Template) -> list[object]:
    """The messages with the stand-in in front of the first text of the system turn, made where there is none."""
    stand_in = template.stand_in
    assert stand_in is not None  # noqa: S101
    messages = cast("list[object]", request.get("messages"))
    first = cast("dict[str, object]", messages[0]) if messages and isinstance(messages[0], dict) else {}
    if template.has_system and first.get("role") != "system":
        return [{"role": "system", "content": stand_in.text}, *messages]
    content = first.get("content")
    if isinstance(content, list):
        parts = cast("list[object]", content)
        return [{**first, "content": _parts_with(stand_in.text, parts)}, *messages[1:]]
    text = content if isinstance(content, str) else ""
    return [{**first, "content": stand_in.text + text}, *messages[1:]]


def _parts_with(stand_in: str, parts: list[object]) -> list[object]:
    first = parts[0] if parts else None
    if isinstance(first, dict):
        text = cast("dict[str, object]", first).get("text")
        if isinstance(text, str):
            return [{**cast("dict[str, object]", first), "text": stand_in + text}, *parts[1:]]
    if isinstance(first, str):
        return [stand_in + first, *parts[1:]]
    return [{"type": "text", "text": stand_in}, *parts]
