"""Deformable attention as one op; `ms_deform_attn.py` is the only name that others import."""
