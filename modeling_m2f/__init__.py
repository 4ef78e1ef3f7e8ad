"""The network, its criterion and its kernels.

Notation for tensor shapes, used in every docstring below this folder:

    B  images in a batch            H, W      height and width of `pixel_values`, multiples of 32 inside the network
    Q  queries                      h, w      height and width of an image's own (valid) pixels, h <= H, w <= W
    K  classes                      H_l, W_l  height and width of feature level l
    C  channels                     S         cells of all levels together, sum of H_l * W_l
    M  attention heads              S_l       cells of one level, H_l * W_l
    L  feature levels (3)           P         sampling points per level (4)
    D  channels per head, C / M     N         targets of one image
"""
