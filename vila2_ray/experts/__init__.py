"""Experts that make annotations (OCR engine, object detector, annotation files), and conversations made of them."""
