"""Draw a network: encoder, skips, decoder and heads, the shape of every tensor on its arrow.

    python -m pipeline.tools.draw --model unet_resnext50 --encoder se_resnext50_32x4d --size 128
    python -m pipeline.tools.draw --model dynamic_unet --encoder resnet34 --to unet.svg

writes  <model>.svg in the folder it is called from, or the file named by --to

Nothing is drawn by hand: the picture is what happens when an image passes through the network.
"""
from collections import defaultdict
from dataclasses import dataclass
from html import escape
from pathlib import Path

from pipeline.salt import artifacts, command

BOX, GAP = (208, 62), (208, 50)            # px, width and height of a box; between boxes
LEFT, TOP, LANE = 90, 96, 92               # px, margins; between vertical lines on the decoder's right
COLOURS = {"image": "#f3f4f6", "encoder": "#dbeafe", "decoder": "#dcfce7", "head": "#ffedd5"}
STYLE = """
text { font-family: Helvetica, Arial, sans-serif; font-size: 13px; fill: #111827 }
.title { font-size: 19px; font-weight: bold } .name { font-weight: bold; font-size: 14px }
.note { fill: #4b5563; font-size: 12px } .shape { fill: #1d4ed8; font-size: 12px }
.halo { stroke: white; stroke-width: 5px; stroke-linejoin: round; paint-order: stroke }
path { fill: none; stroke: #374151; stroke-width: 1.5px } .skip { stroke: #2563eb } .level { stroke: #e5e7eb }
"""
