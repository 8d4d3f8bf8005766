"""Checkpoints of the reference implementation (SakanaAI/text-to-lora): found, read safely, and made into ours.

Level 2. Nothing else of t2l knows these formats.
"""

from t2l.reference.checkpoint import import_checkpoint
from t2l.reference.files import STATE_FILE

__all__ = ["STATE_FILE", "import_checkpoint"]
