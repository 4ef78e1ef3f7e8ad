"""Values in labels that are no class and no segment.

The model has the first three once more (`prepare_targets.py` and `label_tensors.py` in `modeling_m2f/`): it imports
nothing from the folders that read data, nor these from it.
"""

# In index maps, whose other values are the numbers of segments.
NOTHING = -1  # no segment here: counts as background of every mask
IGNORED = -2  # unknown: takes part neither in matching nor in a loss

PADDING_LABEL = -100  # what Trainer and Accelerate fill labels up with where batches differ

# In the files of most data sets: a pixel whose class is not known.
IGNORE_INDEX = 255
