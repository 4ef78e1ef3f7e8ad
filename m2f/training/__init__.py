"""The run of `m2f train` and `M2FTrainer`: options, starting model, optimizer steps, checkpoints and logs."""
