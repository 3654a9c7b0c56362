"""The tiny recipe: a small world of composed scenes, and base weights small enough for minutes of CPU.

`world` says what a scene is and how it is put into words, `compose` paints it, `artwork` fetches the pictures,
`corpus` writes shards, `tokenizer` and `base` make the base checkpoint. Importing this package loads no torch.
"""

from __future__ import annotations

from pathlib import Path

BASE_FOLDER = Path(__file__).parent / "base"
"""The committed base checkpoint (`recipe:tiny`)."""
