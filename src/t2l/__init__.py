"""t2l: describe a task in plain words, get the LoRA adapter that makes a frozen language model good at it."""
