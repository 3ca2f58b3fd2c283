"""What a training step costs, measured: work, memory, time, and which layers take it."""
