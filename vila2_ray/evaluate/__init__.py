"""How good a model's captions and answers are, on samples that no model was trained on. Loads no torch by itself."""
