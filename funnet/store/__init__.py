"""Trees on disk, whole or not at all: one file, or a folder of checkpoints.

Knows nothing of training: what it keeps is arrays by dotted path, and facts in JSON.
"""
