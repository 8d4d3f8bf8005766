"""Training: one resumable loop (`loop`), and the objectives and libraries of adapters that run in it."""
