"""Readers of events.jsonl that tell other tools: never in the training loop."""
