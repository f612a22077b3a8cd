"""Sources that never end: read, tokenised a shard ahead, learnt in windows, and let go behind the checkpoints.

reading.py  rows, each with the place behind it          feed.py   rows -> shards, ahead of the training
windows.py  shards of all sources -> windows -> steps    plan.py   the steps of a run, laid out while it goes on
"""
