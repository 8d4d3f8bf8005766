"""What Text-to-LoRA is compared with: multi-task and average LoRA, nearest task, Arrow routing, hyperdecoder."""
