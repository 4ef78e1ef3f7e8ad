"""The metrics as modules of Hugging Face's `evaluate`: a folder each, for `evaluate.load`.

`evaluate` copies the one file of a folder into its cache and imports the copy; nothing in the project imports it.
"""
