"""Stateless tensor functions. Boxes are absolute XYXY float32 pixels unless a name says otherwise."""
