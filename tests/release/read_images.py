"""Prints the sizes of a folder's images."""

import sys
from pathlib import Path

from PIL import Image

for path in sorted(Path(sys.argv[1]).iterdir()):
    with Image.open(path) as image:
        width, height = image.convert("RGB").size
    sys.stdout.write(f"{width} x {height}\n")
