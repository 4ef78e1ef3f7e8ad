"""Deformable attention as one op: ms_deform_attn.py. Beside it others import its definition in plain PyTorch,
ms_deform_attn_reference.py, and kernel_report.py, which tells what runs on a machine."""
