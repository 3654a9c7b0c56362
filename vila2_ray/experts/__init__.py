"""Experts that see more than a caption says: an OCR engine, a detector, people's annotations; what is built on them."""
