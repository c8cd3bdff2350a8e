"""infbox: a private, code-aware LLM box. The road data takes is drawn in docs/design.md."""

__version__ = "0.1.0"
