"""The training loop, monitors and checkpoints that every trained method shares."""
