"""The skills that specialists are finetuned for, as text and numbers: what experts see, what is asked, said, checked.

Pure: annotations, relations, boxes and printed words in; conversations, turns, flags and scores out. Experts that make
annotations (an OCR engine, a detector, annotation files) are in `experts`.
"""
