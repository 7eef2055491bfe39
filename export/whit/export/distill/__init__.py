"""Distillation: a small encoder learns to give a larger one's vectors. ``distill`` is the whole step.

Everything but ``options`` needs torch, so ``distill`` lies in ``whit.export.distill.loop``.
"""
