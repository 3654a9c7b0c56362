"""Fetches a folder into this node's cache and prints where it lies. Argument: its URI."""

from __future__ import annotations

import sys

from vila2_ray.storage import Store

if __name__ == "__main__":
    print(Store(sys.argv[1]).local_folder())
