"""From a checkpoint and images of any kind to segments at the images' own size, one by one or by the folder."""
