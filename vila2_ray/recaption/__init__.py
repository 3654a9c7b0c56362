"""Recaptioning: a corpus and a checkpoint in, a caption layer out. Loads neither Ray nor torch by itself."""
