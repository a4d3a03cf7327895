"""llmctl: the whole life of a language model from a shell."""

__version__ = "0.1.0"
