"""Stateless tensor functions. Boxes are absolute XYXY float32 in px unless a docstring says otherwise."""
