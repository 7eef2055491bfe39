"""Pruning: smaller encoders out of a trained one, by calibration text alone (no labels, no gradients, no torch).

Each step reads a checkpoint folder and writes another:

- ``layers``: leave out whole layers.
- ``width``: leave out feed-forward columns and attention heads, and let the rest make up for them.
- ``end_token``: leave out the special token after a text.
- ``speedup``: choose the shape of every layer so that a speed-up is met on this machine.
"""
