"""Results in the formats of labelling tools: what is found in an image, as each of them writes it down."""
