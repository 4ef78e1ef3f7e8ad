"""Configuration of the model: one class, `M2FConfig`, in `configuration_m2f.py`."""
