"""What measures a checkpoint, or a model in training, on a dataset: from readers' images to metrics' numbers."""
