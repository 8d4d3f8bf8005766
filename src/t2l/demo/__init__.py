"""The demo: everyday tasks written by hand, what the shipped checkpoint makes of them, and how that is shown."""

TITLE = "Text-to-LoRA: a sentence becomes a LoRA adapter for a frozen language model."
"""The first line, which is printed before anything is loaded."""
