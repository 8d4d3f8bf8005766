"""Training: one resumable loop (`loop`) and the objectives that run in it (`sft`)."""
