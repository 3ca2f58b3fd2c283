"""Training: a run, steps over it, and the loop around them."""
