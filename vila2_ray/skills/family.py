"""What specialists are asked: a family of captioning prompts and another list of questions for each skill.

VILA² (arXiv 2407.17453) draws the questions of the final training from another list than the captioning prompts, so
that the model answers the wish and not the wording. The wording is this project's own.
"""

from __future__ import annotations

PROMPTS: dict[str, dict[str, str]] = {
    "spatial": {
        "spatial": "Describe this picture with an eye to space: where things are with respect to each other.",
        "spatial-plain": "Say how the things in this picture are placed: what is beside, above or before what.",
    },
    "grounding": {
        "grounding": (
            "Describe this picture and give the place of each thing after its noun, as [xmin,ymin,xmax,ymax] in "
            "thousandths of the picture."
        ),
        "grounding-plain": "Name the things in this picture, each with its box [xmin,ymin,xmax,ymax] behind it.",
    },
    "ocr": {
        "ocr": "Write down the text in this picture and nothing else.",
        "ocr-plain": "Transcribe what is printed in this picture, line by line.",
    },
}
"""Skill → prompt id → text, for captioning."""

QUESTIONS: dict[str, tuple[str, ...]] = {
    "spatial": (
        "How are the things in the image arranged?",
        "What are the positions of the objects relative to one another?",
        "Which spatial relations do you see here?",
        "Explain the layout of this scene.",
    ),
    "grounding": (
        "What is in the image, and where exactly? Give coordinates.",
        "List what you see together with bounding boxes.",
        "Locate the objects of the image.",
        "Which objects are there? Answer with their boxes.",
    ),
    "ocr": (
        "What text can be read in the image?",
        "What does the writing say?",
        "Read out the words that appear here.",
        "Which words are written in this photo?",
    ),
}
"""Skill → questions that the final training asks."""
