"""Reports: what a training's folder holds, for people to read."""
