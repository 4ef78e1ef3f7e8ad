"""m2f as a part of other programs, a file for each; nothing of the library imports them."""
