"""Offline stage: fine-tuned checkpoints become one shared base and small experts."""
