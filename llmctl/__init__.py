"""llmctl: the language-model lifecycle from the command line."""

__version__ = "0.1.0"
