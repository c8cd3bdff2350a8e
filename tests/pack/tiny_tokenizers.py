"""Small byte-level tokenizers with the control tokens of real families, made here: the same on every machine."""

import json

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

# Qwen2.5-Coder's; True: flagged as special.
QWEN_TOKENS = {
    "<|endoftext|>": True,
    "<|im_start|>": True,
    "<|im_end|>": True,
    "<tool_call>": False,
    "</tool_call>": False,
    "<|fim_prefix|>": False,
    "<|fim_middle|>": False,
    "<|fim_suffix|>": False,
    "<|fim_pad|>": False,
    "<|repo_name|>": False,
    "<|file_sep|>": False,
}
# SmolLM2's, which stand in the vocabulary too.
SMOL_TOKENS = {"<|endoftext|>": True, "<|im_start|>": True, "<|im_end|>": True, "<repo_name>": True, "<file_sep>": True}
STARCODER2_TOKENS = {**SMOL_TOKENS, "<fim_prefix>": True, "<fim_middle>": True, "<fim_suffix>": True}
CONTROL_TOKENS = sorted({*QWEN_TOKENS, *STARCODER2_TOKENS})
_TEXT = [
    "def save(self, path: str) -> None:\n    return None\n",
    "import os\nfrom pathlib import Path\nfile repository changed\n",
    "the quick brown fox jumps over the lazy dog, again and again and again\n",
]


def tokenizer_json(tokens: dict[str, bool], *, in_vocabulary: bool = False) -> str:
    """A tokenizer.json of 400 pieces with these added tokens."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=list(tokens) if in_vocabulary else [],
        show_progress=False,
    )
    made.train_from_iterator(_TEXT * 3, trainer)
    made.add_tokens([AddedToken(text, special=special, normalized=False) for text, special in tokens.items()])
    return json.dumps(json.loads(made.to_str()))
