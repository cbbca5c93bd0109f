"""Settings, the run folder, checkpoints, and the one training loop."""
